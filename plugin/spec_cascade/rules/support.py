"""The guard that never emits what the target forbids: its truncation, or a grammar's mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import DeferralRule, KeepRule
from spec_cascade.rules.compose import AllOf
from spec_cascade.rules.guards import Guard
from spec_cascade.rules.rows import row_sum

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.base import Looks
    from spec_cascade.rules.rows import Place, Rows


@dataclass(frozen=True)
class Supported(KeepRule):
    """Keep ``{v : p(v) > 0}``: the keep set of the guard, to intersect with others."""

    name: ClassVar[str] = "supported"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True

    def keep(self, rows: Rows) -> Tensor:
        """``p(v) > 0``."""
        return rows.target_probs > 0


_SUPPORTED = Supported()


@dataclass(frozen=True)
class TargetSupport(Guard):
    """The rule, its mass outside the target's support given to the target: ``pi'(v) = pi(v) [p(v) > 0] + m p(v)``.

    Gates read the raw rows, so a rule may keep a token that the target's own top-k, top-p or grammar forbids. Here such
    a token is deferred. For a keep rule this is its keep set cut to the support. A rule without a law rejects such a
    token and draws from p instead.
    """

    name: ClassVar[str] = "target_support"
    about: ClassVar[About | None] = About(
        family="guard",
        formula="tokens with p(v) = 0 are deferred: pi(v) [p(v) > 0] + m p(v)",
        strict="as its rule",
        drafter_only="as its rule, if supports agree",
        source="",
        example="target_support(mix:weight=0.5)",
    )

    @property
    def looks_at(self) -> Looks:
        """As its rule."""
        return self.rule.looks_at

    @property
    def reads_draft_gate(self) -> bool:  # type: ignore[override]
        """As its rule."""
        return self.rule.reads_draft_gate

    @property
    def reads_target_gate(self) -> bool:  # type: ignore[override]
        """As its rule."""
        return self.rule.reads_target_gate

    def at(self, place: Place) -> DeferralRule:
        """The closed form, where the rule is one of keep sets."""
        rule = self.rule.at(place)
        if not rule.lossy:
            return rule
        if isinstance(rule, KeepRule):
            return AllOf((rule, _SUPPORTED))
        return self if rule is self.rule else TargetSupport(rule)

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """See the class."""
        law = self.rule.law(draft_probs, target_probs, draft_gate, target_gate)
        outside = target_probs == 0
        return law.masked_fill(outside, 0) + row_sum(law.masked_fill(~outside, 0)) * target_probs

    def acceptance(self, rows: Rows) -> Tensor:
        """From the law; without one, the rule's acceptance within the support."""
        if self.has_law:
            return DeferralRule.acceptance(self, rows)
        return self.rule.acceptance(rows).masked_fill(rows.target_probs == 0, 0)

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:
        """From the law; without one, p for a token outside the support, the rule's within."""
        if self.has_law:
            return DeferralRule.residual(self, rows, drafted)
        forbidden = rows.target_probs.gather(-1, drafted.unsqueeze(-1)) == 0
        within = self.rule.residual(rows, drafted).masked_fill(rows.target_probs == 0, 0)
        return torch.where(forbidden, rows.target_probs, within)

    def judge(self, rows: Rows, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """From the acceptance."""
        return DeferralRule.judge(self, rows, drafted)

    def __str__(self) -> str:
        return f"target_support({self.rule})"
