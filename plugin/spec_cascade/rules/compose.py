"""Keep rules combined: the intersection or the union of their keep sets.

A row rule's keep set holds all tokens or none, so row gates and token rules mix freely: ``all_of`` of two row gates
keeps where both keep, ``all_of(chow, token_v2)`` keeps good tokens of confident rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import and_, or_
from typing import TYPE_CHECKING, ClassVar

from spec_cascade.errors import ConfigError
from spec_cascade.rules.about import About
from spec_cascade.rules.base import KeepRule

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows


MOST_MEMBERS = 16
"""Of a combination, those of its own combinations counted: each costs a pass, and clients name the rules."""


@dataclass(frozen=True)
class Combination(KeepRule):
    """Several keep rules that act as one, at most `MOST_MEMBERS`."""

    rules: tuple[KeepRule, ...]

    def __post_init__(self) -> None:
        """Only keep sets combine: the other rules have none, and guards belong around the whole."""
        object.__setattr__(self, "rules", tuple(self.rules))
        if not self.rules:
            raise ConfigError(self.name, "", "given at least one rule")
        for rule in self.rules:
            if not isinstance(rule, KeepRule):
                raise ConfigError(
                    self.name,
                    str(rule),
                    "made of rules with a keep set (row and token rules); guards go around the whole",
                )
        if self.size > MOST_MEMBERS:
            raise ConfigError(self.name, f"{self.size} rules", f"made of at most {MOST_MEMBERS}, nested ones counted")

    @property
    def size(self) -> int:
        """Rules in it that are no combinations."""
        return sum(rule.size if isinstance(rule, Combination) else 1 for rule in self.rules)

    @property
    def reads_draft_gate(self) -> bool:  # type: ignore[override]
        """Whether any member does."""
        return any(rule.reads_draft_gate for rule in self.rules)

    @property
    def reads_target_gate(self) -> bool:  # type: ignore[override]
        """Whether any member does."""
        return any(rule.reads_target_gate for rule in self.rules)

    @property
    def drafter_columns(self) -> bool:  # type: ignore[override]
        """Whether all members do."""
        return all(rule.drafter_columns for rule in self.rules)

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:
        """A member that decides nothing makes the combination say what its writer did not mean."""
        for rule in self.rules:
            reason = rule.loses_meaning(argmax_drafts=argmax_drafts, gates_available=gates_available)
            if reason is not None:
                return f"in {rule}, {reason}"
        return None

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.rules))})"


@dataclass(frozen=True)
class AllOf(Combination):
    """Keep what every member keeps. Strict where any member is strict, drafter only where all are."""

    name: ClassVar[str] = "all_of"
    about: ClassVar[About | None] = About(
        family="composition",
        formula="K = intersection of the members' keep sets",
        strict="any member strict",
        drafter_only="all members drafter-only",
        source="CoSD (arXiv 2502.08020) in this form",
        example="all_of(chow:alpha=0.6, token_v3:alpha=0.8)",
    )

    @property
    def lossy(self) -> bool:
        """If all members are."""
        return all(rule.lossy for rule in self.rules)

    def keep(self, rows: Rows) -> Tensor:
        """The intersection."""
        return reduce(and_, (rule.kept(rows) for rule in self.rules))


@dataclass(frozen=True)
class AnyOf(Combination):
    """Keep what any member keeps. Strict where all members are strict, drafter only where any is."""

    name: ClassVar[str] = "any_of"
    about: ClassVar[About | None] = About(
        family="composition",
        formula="K = union of the members' keep sets",
        strict="all members strict",
        drafter_only="any member drafter-only",
        source="",
        example="any_of(chow:alpha=0.4, token_v3:alpha=0.3)",
    )

    @property
    def lossy(self) -> bool:
        """If any member is."""
        return any(rule.lossy for rule in self.rules)

    def keep(self, rows: Rows) -> Tensor:
        """The union."""
        return reduce(or_, (rule.kept(rows) for rule in self.rules))
