"""Row rules that compare confidences: keep the whole row of the drafter, or defer the whole row to the target.

``pi`` is q or p, and the choice does not see the drafted token. Confidences are read from the gate rows; only the total
variation in `Opt` is taken on the sampling rows. Ties keep. A kept row's distance from the target is ``D_TV(p, q)``.

Source of all: Narasimhan et al., ICLR 2025; `Chow` eq. 2, `Diff` eq. 5, `Opt` eq. 10.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import KeepRule
from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.rules.parameters import within
from spec_cascade.rules.rows import peak, row_sum

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows

_PAPER = "Narasimhan et al., ICLR 2025"


class ConfidenceRule(KeepRule):
    """A row rule that reads the drafter's confidence; it is blind where that row is one-hot."""

    alpha: float
    drafter_columns: ClassVar[bool] = True

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:  # noqa: ARG002
        """Without the drafter's raw logits its confidence is always 1, and alpha >= 0 keeps every draft."""
        if gates_available or self.alpha < 0:
            return None
        return "the drafter's confidence would be read from a one-hot row, so that alpha >= 0 keeps every draft"


@dataclass(frozen=True)
class Chow(ConfidenceRule):
    """Keep iff ``max q~ >= 1 - alpha``: the drafter is confident (eq. 2).

    Range of alpha: [-1, 1]. Strict at alpha < 0; at alpha = 0 a one-hot q~ is kept. Drafter only at alpha = 1.
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "chow"
    reads_target_gate: ClassVar[bool] = False
    kernel_code: ClassVar[KernelCode | None] = KernelCode.CHOW
    about: ClassVar[About | None] = About(
        family="confidence",
        formula="keep the row iff max q~ >= 1 - alpha",
        strict="alpha < 0",
        drafter_only="alpha = 1",
        source=f"{_PAPER}, eq. 2",
        example="chow:alpha=0.6",
        alias="confidence",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0."""
        return self.alpha >= 0

    def keep(self, rows: Rows) -> Tensor:
        """``max q~ >= 1 - alpha``."""
        return peak(rows.draft_gate) >= 1 - self.alpha


@dataclass(frozen=True)
class ChowLog(ConfidenceRule):
    """Keep iff ``H(q~) <= alpha``: the drafter's entropy, in nats, is low.

    Range of alpha: any number. Strict at alpha < 0; at alpha = 0 a one-hot q~ is kept. Drafter only at alpha >= log V.
    Source: the appendix of the paper.
    """

    alpha: float = field(metadata=within())
    name: ClassVar[str] = "chow_log"
    reads_target_gate: ClassVar[bool] = False
    kernel_code: ClassVar[KernelCode | None] = KernelCode.CHOW_LOG
    about: ClassVar[About | None] = About(
        family="confidence",
        formula="keep the row iff H(q~) <= alpha",
        strict="alpha < 0",
        drafter_only="alpha >= log V",
        source=f"{_PAPER}, appendix",
        example="chow_log:alpha=1.2",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0."""
        return self.alpha >= 0

    def keep(self, rows: Rows) -> Tensor:
        """``H(q~) <= alpha``."""
        return entropy(rows.draft_gate) <= self.alpha


@dataclass(frozen=True)
class Diff(ConfidenceRule):
    """Keep iff ``max q~ >= max p~ - alpha``: the target is not clearly more confident (eq. 5).

    Range of alpha: [-1, 1]. Strict at alpha = -1; alpha = 0 is not lossless. Drafter only at alpha = 1.
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "diff"
    kernel_code: ClassVar[KernelCode | None] = KernelCode.DIFF
    about: ClassVar[About | None] = About(
        family="comparative",
        formula="keep the row iff max q~ >= max p~ - alpha",
        strict="alpha = -1",
        drafter_only="alpha = 1",
        source=f"{_PAPER}, eq. 5",
        example="diff:alpha=0.125",
        alias="comparative",
    )

    @property
    def lossy(self) -> bool:
        """At alpha > -1."""
        return self.alpha > -1

    def keep(self, rows: Rows) -> Tensor:
        """``max q~ >= max p~ - alpha``."""
        return peak(rows.draft_gate) >= peak(rows.target_gate) - self.alpha


@dataclass(frozen=True)
class DiffLog(ConfidenceRule):
    """Keep iff ``H(q~) <= H(p~) + alpha``: the target's entropy, in nats, is not clearly lower.

    Range of alpha: any number. Strict below -log V, at -inf for certain; alpha = 0 is not lossless. Drafter only at
    alpha >= log V. Source: the appendix of the paper.
    """

    alpha: float = field(metadata=within())
    name: ClassVar[str] = "diff_log"
    kernel_code: ClassVar[KernelCode | None] = KernelCode.DIFF_LOG
    about: ClassVar[About | None] = About(
        family="comparative",
        formula="keep the row iff H(q~) <= H(p~) + alpha",
        strict="alpha < -log V",
        drafter_only="alpha >= log V",
        source=f"{_PAPER}, appendix",
        example="diff_log:alpha=0.2",
    )

    @property
    def lossy(self) -> bool:
        """At alpha > -inf: the vocabulary, and with it log V, may be of any size."""
        return self.alpha > -math.inf

    def keep(self, rows: Rows) -> Tensor:
        """``H(q~) <= H(p~) + alpha``."""
        return entropy(rows.draft_gate) <= entropy(rows.target_gate) + self.alpha


@dataclass(frozen=True)
class Opt(ConfidenceRule):
    """Keep iff ``max q~ >= max p~ - alpha D_TV(p, q)``: deferring gains less than rejections cost (eq. 10).

    Range of alpha: any number; ``alpha * 0 = 0``, also for an infinite alpha. Strict at -inf, and below -1 where gate
    and sampling rows are the same; alpha = 0 is not lossless. Drafter only at +inf, and above 1 where they are the
    same. At alpha = -1 and 1 the comparison is a tie on many rows, which rounding decides: avoid them.
    """

    alpha: float = field(metadata=within())
    name: ClassVar[str] = "opt"
    kernel_code: ClassVar[KernelCode | None] = KernelCode.OPT
    about: ClassVar[About | None] = About(
        family="cost-benefit",
        formula="keep the row iff max q~ >= max p~ - alpha D_TV(p, q)",
        strict="alpha = -inf (< -1 at T = 1)",
        drafter_only="alpha = inf (> 1 at T = 1)",
        source=f"{_PAPER}, eq. 10",
        example="opt:alpha=0.5",
        alias="cost_benefit",
    )

    @property
    def lossy(self) -> bool:
        """At alpha > -inf: with other gate than sampling rows no finite alpha is strict for certain."""
        return self.alpha > -math.inf

    def keep(self, rows: Rows) -> Tensor:
        """``max q~ >= max p~ - alpha D_TV(p, q)``."""
        distance = total_variation(rows)
        # inf * 0 is NaN: an infinite alpha leaves rows without distance to the comparison of the maxima.
        cost = torch.where(distance > 0, self.alpha * distance, 0)
        return peak(rows.draft_gate) >= peak(rows.target_gate) - cost


def entropy(row: Tensor) -> Tensor:
    """``H`` in nats, ``[..., 1]``; at least 0, whatever rounding says."""
    return row_sum(torch.special.entr(row)).clamp_min(0)


def total_variation(rows: Rows) -> Tensor:
    """``D_TV(p, q)`` ``[..., 1]`` of the sampling rows, summed where q exceeds p: the drafter's tokens suffice."""
    return row_sum((rows.draft_probs - rows.on_draft(rows.target_probs)).clamp_min(0))
