"""What the table of rules says of each rule; declared on the class, read by the command line and the documentation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """One line of the table of rules.

    Attributes:
        family: Confidence, comparative, cost-benefit, token-specific, ...
        formula: When the drafter's mass is kept, or the law, or the acceptance.
        strict: Where the law is the target's.
        drafter_only: Where the law is the drafter's.
        source: Publication or project.
        example: The rule with parameters, for the worked example.
        alias: Another name of the rule.
        fused: Whether a kernel runs it, where the class's `kernel_code` does not tell.
    """

    family: str
    formula: str
    strict: str
    drafter_only: str
    source: str
    example: str
    alias: str | None = None
    fused: str | None = None
