"""What a deferral rule is: pure maths on rows.

Symbols, here and everywhere: ``q`` and ``p`` are the drafter's and the target's *sampling* rows (after temperature,
top-k, top-p), ``q~`` and ``p~`` their *gate* rows (plain softmax of the raw logits). A rule turns them into a law
``pi``, and the verifier makes the emitted token an exact sample of it: accept the drafted ``x ~ q`` with probability
``min(1, pi(x) / q(x))``, else draw from the residual ``max(0, pi - q)``, normalised
(Narasimhan et al., "Faster Cascades via Speculative Decoding", ICLR 2025, Algorithm 4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from spec_cascade.errors import SpecCascadeError
from spec_cascade.rules.parameters import ranges
from spec_cascade.rules.rows import NOWHERE, Place, Rows, at_token, row_sum, tiny

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.about import About
    from spec_cascade.rules.kernel_codes import KernelCode

__all__ = ["DeferralRule", "KeepRule", "NoLawError", "NOWHERE", "Place", "Rows"]

Looks = Literal["nothing", "position", "tokens"]


class NoLawError(SpecCascadeError):
    """The rule's acceptance sees the drafted token, or its residual does: there is no law that it samples from."""


class DeferralRule(ABC):
    """Decides, at each position, whether the drafter's mass or the target's stands.

    A subclass is a frozen dataclass with a `name`. It must give `law`; all else follows from the law and is overridden
    where a closed form needs no dense pi. A rule whose acceptance sees the drafted token has no law: it sets `has_law`
    to False, overrides `acceptance` and `residual`, and its `law` raises `NoLawError`.

    Class attributes that a subclass may set:
        about: Its line in the table of rules.
        has_law: Whether `law` answers.
        reads_draft_gate, reads_target_gate: Whether it reads q~, p~; rows that are not read are not computed.
        drafter_columns: Whether it works on drafter rows over a part of the vocabulary (`Rows.draft_index`); for
            others the full q row is built.
        kernel_code: The fused form of its `KeepRule`, if a kernel has one.
    """

    name: ClassVar[str]
    about: ClassVar[About | None] = None
    has_law: ClassVar[bool] = True
    reads_draft_gate: ClassVar[bool] = True
    reads_target_gate: ClassVar[bool] = True
    drafter_columns: ClassVar[bool] = False
    kernel_code: ClassVar[KernelCode | None] = None

    def __post_init__(self) -> None:
        """Check each parameter against the range declared on its field."""
        for parameter, allowed in ranges(type(self)).items():
            if allowed is not None:
                value = allowed.read(f"{self.name}.{parameter}", getattr(self, parameter))
                object.__setattr__(self, parameter, value)

    @property
    def lossy(self) -> bool:
        """Whether the law may differ from the target's at these parameters."""
        return True

    @property
    def drafts(self) -> bool:
        """Whether drafting serves any purpose; False makes the engine decode plainly."""
        return True

    @property
    def looks_at(self) -> Looks:
        """What `at` looks at, so that the verifier prepares no more than that for each row."""
        return "nothing" if type(self).at is DeferralRule.at else "tokens"

    @abstractmethod
    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """The distribution ``pi`` ``[..., V]`` that the emitted token follows, given the four rows ``[..., V]``.

        Raises:
            NoLawError: The rule has none.
        """

    def acceptance(self, rows: Rows) -> Tensor:
        """Probability ``[..., V]`` of accepting each token, were it drafted. Where q is 0 the value means nothing."""
        q = rows.draft_probs
        return (self._law(rows) / q.clamp_min(tiny(q))).clamp_max(1)

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:  # noqa: ARG002 - rules without a law look at it
        """Weights ``[..., V]``, not normalised, of the token that replaces the rejected ``drafted`` ``[...]``."""
        return (self._law(rows) - rows.draft_probs).clamp_min(0)

    def deferred(self, rows: Rows, drafted: Tensor) -> Tensor:
        """Whether the rule deferred to the target at each drafted token, boolean ``[...]``; for statistics."""
        return self.judge(rows, drafted)[1]

    def judge(self, rows: Rows, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """Probability ``[...]`` of accepting each ``drafted`` token ``[...]``, and whether the rule deferred there."""
        chance = at_token(self.acceptance(rows), drafted)
        # A ratio of equal numbers may round below 1; that is no deferral.
        return chance, chance < 1 - 8 * torch.finfo(chance.dtype).eps

    def at(self, place: Place) -> DeferralRule:  # noqa: ARG002 - guards and schedules look at it
        """The rule that holds at ``place``; guards and schedules answer with another rule."""
        return self

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:  # noqa: ARG002
        """Why the rule cannot decide under this way of drafting, as a phrase, or None; see `check_draft_mode`."""
        return None

    def kernel_parameters(self) -> tuple[float, ...]:
        """The numbers that go with `kernel_code`: the rule's numeric parameters in order, at most 2."""
        return tuple(float(getattr(self, f)) for f in ranges(type(self))) if self.kernel_code is not None else ()

    @property
    def parameters(self) -> dict[str, object]:
        """The plain parameters by name, those of a guarded rule among them; `str` alone tells combinations apart."""
        found: dict[str, object] = {}
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, DeferralRule):
                found |= value.parameters
            elif isinstance(value, (bool, int, float, str)):
                found[field.name] = value
        return found

    def __str__(self) -> str:
        """The rule in `parse_rule` syntax."""
        from spec_cascade.rules.registry import spelling

        parameters = ",".join(f"{f.name}={getattr(self, f.name)}" for f in fields(self))  # type: ignore[arg-type]
        return f"{spelling(type(self))}:{parameters}" if parameters else spelling(type(self))

    def _law(self, rows: Rows) -> Tensor:
        return self.law(rows.draft_probs, rows.target_probs, rows.draft_gate, rows.target_gate)


class KeepRule(DeferralRule):
    """A rule given by its keep set K: the tokens whose drafter mass stands.

    ``pi(v) = q(v) [v in K] + eta p(v)`` with ``eta`` the drafter's mass outside K (eq. 11). A row rule keeps all
    tokens or none, so that pi is q or p; a token rule looks at each token. The verifier needs no dense pi: a drafted
    token in K is accepted, another with probability ``min(1, eta p / q)``; the residual weight is ``eta p`` in K and
    ``max(0, eta p - q)`` outside. (Accepting in K and testing plain ``p / q`` outside is *not* this law.)
    """

    @abstractmethod
    def keep(self, rows: Rows) -> Tensor:
        """Membership of K, boolean ``[..., V]`` for a token rule or ``[..., 1]`` for a row rule."""

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """See the class."""
        kept = self.kept(Rows(draft_probs, target_probs, draft_gate, target_gate))
        return draft_probs * kept + _deferred_mass(draft_probs, kept) * target_probs

    def acceptance(self, rows: Rows) -> Tensor:
        """1 in K, ``min(1, eta p / q)`` outside; ``[..., V]``, or over the drafter's part of the vocabulary."""
        q, kept = rows.draft_probs, self.kept(rows)
        ratio = _deferred_mass(q, kept) * rows.on_draft(rows.target_probs) / q.clamp_min(tiny(q))
        return ratio.clamp_max(1).masked_fill(kept, 1)

    def judge(self, rows: Rows, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """`acceptance` at the drafted tokens alone, and whether they lie outside K."""
        kept, column = self.kept(rows), rows.column(drafted)
        q, p = at_token(rows.draft_probs, column), at_token(rows.target_probs, drafted)
        deferred = ~(at_token(kept, column) if kept.shape[-1] > 1 else kept.squeeze(-1))
        ratio = p / q.clamp_min(tiny(q))
        if kept.shape[-1] > 1 and bool(deferred.any()):
            # eta takes a pass over the row, and only the rows that defer ask for it.
            ratio[deferred] *= _deferred_mass(rows.draft_probs[deferred], kept[deferred]).squeeze(-1)
        return ratio.clamp_max(1).masked_fill(~deferred, 1), deferred

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:  # noqa: ARG002 - this law does not depend on it
        """``eta p`` in K, ``max(0, eta p - q)`` outside."""
        q, kept = rows.draft_probs, self.kept(rows)
        weights = _deferred_mass(q, kept) * rows.target_probs
        lost = q * ~kept
        if rows.draft_index is None:
            return (weights - lost).clamp_min(0)
        return weights.index_copy(-1, rows.draft_index, (rows.on_draft(weights) - lost).clamp_min(0))

    def kept(self, rows: Rows) -> Tensor:
        """K over the drafter's tokens, ``[..., 1]`` or as wide as q; empty, whatever rounding says, where not lossy."""
        if not self.lossy:
            return rows.draft_probs.new_zeros((*rows.draft_probs.shape[:-1], 1), dtype=torch.bool)
        kept = self.keep(rows)
        whole = kept.shape[-1] in (1, rows.draft_probs.shape[-1])
        return kept if whole else rows.on_draft(kept)


def _deferred_mass(q: Tensor, kept: Tensor) -> Tensor:
    """``eta`` ``[..., 1]``; exactly 1 where K is empty, so that the law there is p and not p times a rounding."""
    if kept.shape[-1] == 1:
        return (~kept).to(q.dtype)
    mass = row_sum(q.masked_fill(kept, 0))
    return mass.masked_fill(~kept.any(-1, keepdim=True), 1)
