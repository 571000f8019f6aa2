"""Laws between the drafter's and the target's: a mixture, and lenient acceptance with its exact law."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import DeferralRule
from spec_cascade.rules.parameters import within
from spec_cascade.rules.rows import row_sum, tiny

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows


@dataclass(frozen=True)
class Mix(DeferralRule):
    """``pi = weight p + (1 - weight) q``: the ensemble of the two models.

    Range of weight: [0, 1]. Strict at 1. Drafter only at 0.
    Source: speculative ensemble (arXiv 2502.01662); static mixture of DIVERSED (arXiv 2604.07622).
    """

    weight: float = field(metadata=within(0, 1))
    name: ClassVar[str] = "mix"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    about: ClassVar[About | None] = About(
        family="mixture",
        formula="pi = weight p + (1 - weight) q",
        strict="weight = 1",
        drafter_only="weight = 0",
        source="speculative ensemble, arXiv 2502.01662",
        example="mix:weight=0.9",
    )

    @property
    def lossy(self) -> bool:
        """At weight < 1."""
        return self.weight < 1

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:  # noqa: ARG002
        """``weight p + (1 - weight) q``."""
        return self.weight * target_probs + (1 - self.weight) * draft_probs


@dataclass(frozen=True)
class Lossy(DeferralRule):
    """``pi = max(min(q, p / (1 - alpha)), p / beta)``, beta >= 1 such that pi sums to 1: lenient acceptance.

    A draft is accepted with probability ``min(1, p / ((1 - alpha) q))``; the residual is ``max(0, p / beta - q)``,
    which makes the output an exact sample of pi (the common residual ``max(0, p - q)`` does not). Without effect at
    temperature 0.

    Range of alpha: [0, 1]. Strict at 0. Drafter only at 1.
    Source: Leviathan et al. 2023, appendix A.5; the law in Narasimhan et al., ICLR 2025, appendix.
    """

    alpha: float = field(metadata=within(0, 1))
    name: ClassVar[str] = "lossy"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    about: ClassVar[About | None] = About(
        family="lenience",
        formula="pi = max(min(q, p / (1 - alpha)), p / beta), sum = 1",
        strict="alpha = 0",
        drafter_only="alpha = 1",
        source="Leviathan et al. 2023, A.5; Narasimhan et al., ICLR 2025",
        example="lossy:alpha=0.5",
    )

    @property
    def lossy(self) -> bool:
        """At alpha > 0."""
        return self.alpha > 0

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:  # noqa: ARG002
        """See the class."""
        if not self.lossy:
            return target_probs
        q, p = draft_probs.double(), target_probs.double()
        return _lenient(q, p, torch.full_like(p[..., :1], 1 - self.alpha)).to(draft_probs.dtype)

    def acceptance(self, rows: Rows) -> Tensor:
        """``min(1, p / ((1 - alpha) q))``: beta is not needed to accept."""
        return _lenient_acceptance(rows.draft_probs, rows.target_probs, 1 - self.alpha)


@dataclass(frozen=True)
class Mentored(DeferralRule):
    """The law of highest acceptance among those with ``KL(p || pi) <= budget``: `Lossy` with an alpha found per row.

    Costs a sort and some thirty passes over each drafted row. Without effect at temperature 0.

    Range of budget (nats): from 0. Strict at 0. Drafter only at inf, and on every row with ``KL(p || q) <= budget``.
    Source: Tran-Thien 2023, "An optimal lossy variant of speculative decoding".
    """

    budget: float = field(metadata=within(0))
    name: ClassVar[str] = "mentored"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    about: ClassVar[About | None] = About(
        family="lenience",
        formula="the lossy law of the largest alpha with KL(p || pi) <= budget",
        strict="budget = 0",
        drafter_only="budget = inf",
        source="Tran-Thien 2023 (mentored decoding)",
        example="mentored:budget=0.05",
    )

    @property
    def lossy(self) -> bool:
        """At budget > 0."""
        return self.budget > 0

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:  # noqa: ARG002
        """See the class."""
        if not self.lossy:
            return target_probs
        q, p = draft_probs.double(), target_probs.double()
        return _lenient(q, p, self._cap(draft_probs, target_probs)).to(draft_probs.dtype)

    def acceptance(self, rows: Rows) -> Tensor:
        """``min(1, p / (a q))`` with the ``a`` of each row."""
        a = (
            self._cap(rows.draft_probs, rows.target_probs)
            if self.lossy
            else torch.ones_like(rows.target_probs[..., :1])
        )
        return _lenient_acceptance(rows.draft_probs, rows.target_probs, a)

    def _cap(self, q: Tensor, p: Tensor) -> Tensor:
        """``a = 1 - alpha`` ``[..., 1]``: bisection, ending where the budget holds; 0 where q itself holds it."""
        steps = 54 if q.dtype == torch.float64 else 30
        divergence = _LenientDivergence(q.double(), p.double())
        low, high = torch.zeros_like(divergence.of_q), torch.ones_like(divergence.of_q)
        for _ in range(steps):
            middle = (low + high) / 2
            holds = divergence.at(middle) <= self.budget
            low, high = torch.where(holds, low, middle), torch.where(holds, middle, high)
        return high.masked_fill(divergence.of_q <= self.budget, 0)


class _LenientDivergence:
    """``KL(p || pi)`` of the lenient laws of rows ``[..., V]``, from one sort by ``ratio = p / q`` and running sums."""

    def __init__(self, q: Tensor, p: Tensor) -> None:
        ratio, order = (p / q).nan_to_num(nan=0, posinf=torch.inf).sort(dim=-1, descending=True)
        p = p.gather(-1, order)
        self.ratio = ratio
        self.sum_p = p.cumsum(-1)
        self.sum_q = q.gather(-1, order).cumsum(-1)
        information = torch.where((p > 0) & ratio.isfinite(), p * ratio.log(), 0)
        self.sum_information = information.cumsum(-1)
        unreached = ((p > 0) & ratio.isinf()).any(-1, keepdim=True)
        self.of_q = self.sum_information[..., -1:].masked_fill(unreached, torch.inf)

    def at(self, a: Tensor) -> Tensor:
        """``[..., 1]``, for the law ``p / a`` below a ratio of ``a``, ``p / beta`` above one of beta, q between."""
        capped = self._before((self.ratio >= a).sum(-1, keepdim=True))
        # As in `_lenient`, of which the ordered sums give every term.
        missing = (1 - capped.q - (self.sum_p[..., -1:] - capped.p) / a).clamp_min(0)
        beta = (self.sum_p / (missing + self.sum_q)).masked_fill(self.ratio < a, 0).amax(-1, keepdim=True)
        raised = self._before((self.ratio >= beta).sum(-1, keepdim=True))
        from_raised = torch.where(raised.p > 0, raised.p * beta.log(), 0)
        from_capped = (self.sum_p[..., -1:] - capped.p) * a.log()
        return from_raised + (capped.information - raised.information) + from_capped

    def _before(self, count: Tensor) -> _Sums:
        """The sums over the first ``count`` ``[..., 1]`` tokens."""
        sums = (self.sum_p, self.sum_q, self.sum_information)
        return _Sums(*(s.gather(-1, (count - 1).clamp_min(0)).masked_fill(count == 0, 0) for s in sums))


class _Sums(NamedTuple):
    p: Tensor
    q: Tensor
    information: Tensor


def _lenient_acceptance(q: Tensor, p: Tensor, a: Tensor | float) -> Tensor:
    lenient_q = a * q
    return torch.where(p >= lenient_q, 1, p / lenient_q.clamp_min(tiny(q))).to(q.dtype)


def _lenient(q: Tensor, p: Tensor, a: Tensor) -> Tensor:
    """``max(min(q, p / a), p / beta)`` for ``a = 1 - alpha`` ``[..., 1]``; q where a is 0.

    Its sum is convex in ``1 / beta`` and made of straight pieces, so Newton's method from beta = 1 meets 1 after
    finitely many steps, each of which drops tokens from those that beta raises.
    """
    capped = torch.where(a > 0, torch.minimum(q, p / a), q)
    inverse = torch.ones_like(p[..., :1])
    for _ in range(p.shape[-1]):
        raised = p * inverse > capped
        room = 1 - row_sum(capped.masked_fill(raised, 0))
        step = torch.where(raised.any(-1, keepdim=True), room / row_sum(p.masked_fill(~raised, 0)), inverse)
        if not bool((step < inverse).any()):
            break
        inverse = torch.minimum(step, inverse)
    return torch.maximum(capped, p * inverse)
