"""The row rule that compares whole rows: keep the drafter's row while it is close to the target's."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import KeepRule
from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.rules.parameters import one_of, within
from spec_cascade.rules.row import total_variation
from spec_cascade.rules.rows import row_sum

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows


@dataclass(frozen=True)
class Divergence(KeepRule):
    """Keep iff ``D(p, q) <= alpha`` on the sampling rows, D one of total variation, Jensen-Shannon, Kullback-Leibler.

    ``tv`` is ``1/2 ||p - q||_1``; ``js`` is ``1/2 KL(p || m) + 1/2 KL(q || m)`` with ``m = (p + q) / 2``; ``kl`` is
    ``KL(p || q)``, infinite where q misses a token of p. Both in nats. With ``tv`` the law is within alpha of p.

    Range of alpha: any number. Strict at alpha < 0. Drafter only at alpha >= 1 (tv), log 2 (js), inf (kl).
    Source: BiLD* of Narasimhan et al., ICLR 2025; rFSD (arXiv 2502.20704).
    """

    alpha: float = field(metadata=within())
    kind: str = field(default="tv", metadata=one_of("tv", "js", "kl"))
    name: ClassVar[str] = "divergence"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    about: ClassVar[About | None] = About(
        family="divergence",
        formula="keep the row iff D(p, q) <= alpha, D = TV, JS or KL(p || q)",
        strict="alpha < 0",
        drafter_only="alpha >= 1 (tv), log 2 (js), inf (kl)",
        source="BiLD* (Narasimhan et al., ICLR 2025); rFSD, arXiv 2502.20704",
        example="divergence:alpha=0.1,kind=js",
        fused="tv only",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0: at 0 only equal rows should be kept, but rounding calls nearly equal ones equal."""
        return self.alpha >= 0

    @property
    def kernel_code(self) -> KernelCode | None:  # type: ignore[override]
        """The total variation has a fused form."""
        return KernelCode.DIVERGENCE_TV if self.kind == "tv" else None

    def kernel_parameters(self) -> tuple[float, ...]:
        """Alpha."""
        return (self.alpha,)

    def keep(self, rows: Rows) -> Tensor:
        """``D(p, q) <= alpha``."""
        distance = {"tv": total_variation, "js": _jensen_shannon, "kl": _kullback_leibler}[self.kind]
        return distance(rows) <= self.alpha

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:  # noqa: ARG002
        """``KL(p || q)`` of a one-hot q is infinite."""
        if argmax_drafts and self.kind == "kl" and 0 <= self.alpha < math.inf:
            return "KL(p || q) is infinite for a one-hot q, so that no draft is ever kept"
        return None


def _jensen_shannon(rows: Rows) -> Tensor:
    q, p = rows.draft_probs, rows.on_draft(rows.target_probs)
    middle = (p + q) / 2
    # A token that the drafter does not know adds p log(p / (p / 2)) / 2.
    unknown = _mass_unknown_to_drafter(rows) * math.log(2)
    return ((row_sum(_relative(p, middle) + _relative(q, middle)) + unknown) / 2).clamp_min(0)


def _kullback_leibler(rows: Rows) -> Tensor:
    distance = row_sum(_relative(rows.on_draft(rows.target_probs), rows.draft_probs)).clamp_min(0)
    return distance.masked_fill(_mass_unknown_to_drafter(rows) > 0, math.inf)


def _relative(row: Tensor, other: Tensor) -> Tensor:
    """``row log(row / other)`` with ``0 log 0 = 0``."""
    return torch.where(row > 0, row * (row.log() - other.log()), 0)


def _mass_unknown_to_drafter(rows: Rows) -> Tensor:
    """``[..., 1]``."""
    if rows.draft_index is None:
        return torch.zeros_like(rows.target_probs[..., :1])
    return row_sum(rows.target_probs.index_fill(-1, rows.draft_index, 0))
