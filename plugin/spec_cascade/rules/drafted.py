"""Rules without a law: their acceptance, or what replaces a rejected token, does not come from one distribution.

What they emit depends on the drafted token in a way that no ``pi`` describes; the verifier samples it exactly all the
same. `emission` gives the resulting distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import DeferralRule, NoLawError
from spec_cascade.rules.parameters import whole, within
from spec_cascade.rules.row import entropy
from spec_cascade.rules.rows import at_token, peak, tiny
from spec_cascade.rules.token import kth_largest

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows


class LawlessRule(DeferralRule):
    """A rule that gives acceptance and residual itself; a rejected token is replaced by a draw from p."""

    has_law: ClassVar[bool] = False
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:  # noqa: ARG002
        """Raises.

        Raises:
            NoLawError: Always.
        """
        raise NoLawError(f"{self.name} has no law: its output depends on the drafted token")

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:  # noqa: ARG002 - see Cactus
        """``p``."""
        return rows.target_probs


@dataclass(frozen=True)
class Cactus(LawlessRule):
    """Accept with probability ``min(1, h(x) / q(x))``, ``h(x) = min(1, p(x) + sqrt(2 delta p(x) (1 - p(x))))``.

    A rejected x is replaced from ``max(0, h - q)``, where the row h is ``h(x)`` at x, and elsewhere p scaled to the
    rest.

    Range of delta: finite, from 0. Strict at 0. Drafter only nowhere. Source: Cactus (arXiv 2604.04987, ICLR 2026).
    """

    delta: float = field(metadata=within(0, finite=True))
    name: ClassVar[str] = "cactus"
    about: ClassVar[About | None] = About(
        family="drafted-token",
        formula="accept min(1, h / q), h = min(1, p + sqrt(2 delta p (1 - p)))",
        strict="delta = 0",
        drafter_only="never",
        source="Cactus, arXiv 2604.04987",
        example="cactus:delta=0.1",
    )

    @property
    def lossy(self) -> bool:
        """At delta > 0."""
        return self.delta > 0

    def acceptance(self, rows: Rows) -> Tensor:
        """``min(1, h / q)``."""
        q = rows.draft_probs
        return (self._raised(rows.target_probs) / q.clamp_min(tiny(q))).clamp_max(1)

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:
        """``max(0, h - q)`` with h raised at the drafted token."""
        p, here = rows.target_probs, drafted.unsqueeze(-1)
        raised = self._raised(at_token(p, drafted)).unsqueeze(-1)
        elsewhere = 1 - p.gather(-1, here)
        scale = torch.where(elsewhere > 0, (1 - raised) / elsewhere, 0)
        return ((p * scale).scatter(-1, here, raised) - rows.draft_probs).clamp_min(0)

    def _raised(self, p: Tensor) -> Tensor:
        return (p + (2 * self.delta * p * (1 - p).clamp_min(0)).sqrt()).clamp_max(1)


@dataclass(frozen=True)
class Typical(LawlessRule):
    """Accept iff ``p(x) > min(epsilon, delta exp(-H(p)))``; a rejected token is replaced by a draw from p.

    Range of epsilon: [0, 1]; of delta: finite, from 0. Strict at temperature 0 if either is below 1, never above it.
    At epsilon = 0 or delta = 0 every token that the target allows is accepted. Source: Medusa (arXiv 2401.10774).
    """

    epsilon: float = field(metadata=within(0, 1))
    delta: float = field(metadata=within(0, finite=True))
    name: ClassVar[str] = "typical"
    about: ClassVar[About | None] = About(
        family="target-only",
        formula="accept iff p(x) > min(epsilon, delta exp(-H(p))); else draw from p",
        strict="T = 0",
        drafter_only="epsilon = 0 or delta = 0, where p > 0",
        source="Medusa, arXiv 2401.10774",
        example="typical:epsilon=0.3,delta=0.09",
    )

    def acceptance(self, rows: Rows) -> Tensor:
        """1 or 0."""
        p = rows.target_probs
        return (p > (self.delta * (-entropy(p)).exp()).clamp_max(self.epsilon)).to(p.dtype)


@dataclass(frozen=True)
class Relaxed(LawlessRule):
    """Accept iff x is among the target's top_n and ``p~(x) >= max p~ - delta``; a rejected token is replaced from p.

    Range of top_n: whole numbers from 1; of delta: [0, 1]. Strict at temperature 0 with top_n = 1 or delta = 0, never
    above it. Drafter only with top_n >= V and delta = 1. Source: TensorRT-LLM's relaxed acceptance, which runs it in
    the thinking phase only: ``phase(relaxed:top_n=10,delta=0.6):start=..,end=..``.
    """

    top_n: int = field(metadata=whole(1))
    delta: float = field(metadata=within(0, 1))
    name: ClassVar[str] = "relaxed"
    reads_target_gate: ClassVar[bool] = True
    about: ClassVar[About | None] = About(
        family="target-only",
        formula="accept iff x in top_n of p~ and p~(x) >= max p~ - delta; else draw from p",
        strict="T = 0 with top_n = 1 or delta = 0",
        drafter_only="top_n >= V and delta = 1",
        source="TensorRT-LLM, relaxed acceptance",
        example="relaxed:top_n=2,delta=0.6",
    )

    def acceptance(self, rows: Rows) -> Tensor:
        """1 or 0."""
        row = rows.target_gate
        accepted = (row >= kth_largest(row, self.top_n)) & (row >= peak(row) - self.delta)
        return accepted.to(row.dtype)


@dataclass(frozen=True)
class Ears(LawlessRule):
    """Accept with probability ``min(1, p / q + tolerance (1 - max p))``: lenient where the target is unsure.

    A rejected token is replaced from ``max(0, p - q)``, as in strict verification.

    Range of tolerance: [0, 1]. Strict at 0, and at temperature 0. Drafter only nowhere.
    Source: EARS (vLLM issue 31483), where it reads ``u <- u - tolerance (1 - max p)``.
    """

    tolerance: float = field(metadata=within(0, 1))
    name: ClassVar[str] = "ears"
    about: ClassVar[About | None] = About(
        family="drafted-token",
        formula="accept min(1, p / q + tolerance (1 - max p))",
        strict="tolerance = 0, or T = 0",
        drafter_only="never",
        source="EARS, vllm-project/vllm issue 31483",
        example="ears:tolerance=0.3",
    )

    @property
    def lossy(self) -> bool:
        """At tolerance > 0."""
        return self.tolerance > 0

    def acceptance(self, rows: Rows) -> Tensor:
        """``min(1, p / q + tolerance (1 - max p))``."""
        q, p = rows.draft_probs, rows.target_probs
        return (p / q.clamp_min(tiny(q)) + self.tolerance * (1 - peak(p))).clamp_max(1)

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:  # noqa: ARG002 - the strict one
        """``max(0, p - q)``."""
        return (rows.target_probs - rows.draft_probs).clamp_min(0)
