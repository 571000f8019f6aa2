"""Token rules: keep the drafter's mass on the tokens that the target finds good, defer the rest.

Compared values are read from the gate rows. Ties keep. These rules *sharpen*: at small alpha they accept less than
`Strict` does (even for q = p), and acceptance is not monotone in alpha.

Source of `TokenV1` to `TokenV3`: Narasimhan et al., ICLR 2025, equations 11 to 15.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from spec_cascade.rules.about import About
from spec_cascade.rules.base import KeepRule
from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.rules.parameters import whole, within
from spec_cascade.rules.rows import peak

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows

_PAPER = "Narasimhan et al., ICLR 2025"


@dataclass(frozen=True)
class TokenV1(KeepRule):
    """Keep ``{v : q~(v) >= max p~ - alpha}``: tokens of which the drafter is as sure as that (eq. 13).

    Range of alpha: [-1, 1]. Strict at alpha = -1. Drafter only at alpha = 1. At temperature 0 this is `Diff`.
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "token_v1"
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.TOKEN_V1
    about: ClassVar[About | None] = About(
        family="token-specific",
        formula="keep v iff q~(v) >= max p~ - alpha",
        strict="alpha = -1",
        drafter_only="alpha = 1",
        source=f"{_PAPER}, eq. 13",
        example="token_v1:alpha=0.5",
    )

    @property
    def lossy(self) -> bool:
        """At alpha > -1."""
        return self.alpha > -1

    def keep(self, rows: Rows) -> Tensor:
        """``q~(v) >= max p~ - alpha``."""
        return rows.draft_gate >= peak(rows.target_gate) - self.alpha

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:  # noqa: ARG002
        """Without the drafter's raw logits q~ is 1 at the drafted token, and alpha >= 0 keeps it always."""
        if gates_available or self.alpha < 0:
            return None
        return "q~ would be read from a one-hot row, so that alpha >= 0 keeps every draft"


@dataclass(frozen=True)
class TokenV2(KeepRule):
    """Keep ``{v : p~(v) >= max p~ - alpha}``: tokens within a margin of the target's best (eq. 14).

    Range of alpha: [-1, 1]. Strict at alpha < 0; alpha = 0 is lossless at temperature 0 only. Drafter only at
    alpha = 1. At temperature 0 this is TensorRT-LLM's relaxed acceptance without its top-N.
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "token_v2"
    reads_draft_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.TOKEN_V2
    about: ClassVar[About | None] = About(
        family="token-specific",
        formula="keep v iff p~(v) >= max p~ - alpha",
        strict="alpha < 0",
        drafter_only="alpha = 1",
        source=f"{_PAPER}, eq. 14",
        example="token_v2:alpha=0.57",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0."""
        return self.alpha >= 0

    def keep(self, rows: Rows) -> Tensor:
        """``p~(v) >= max p~ - alpha``."""
        return rows.target_gate >= peak(rows.target_gate) - self.alpha


@dataclass(frozen=True)
class TokenV3(KeepRule):
    """Keep ``{v : p~(v) >= (1 - alpha) max p~}``: tokens within a factor of the target's best (eq. 15).

    Range of alpha: [-1, 1]. Strict at alpha < 0; alpha = 0 is lossless at temperature 0 only. Drafter only at
    alpha = 1. At temperature 0 this is Leviathan's greedy lenience (appendix A.5).
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "token_v3"
    reads_draft_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.TOKEN_V3
    about: ClassVar[About | None] = About(
        family="token-specific",
        formula="keep v iff p~(v) >= (1 - alpha) max p~",
        strict="alpha < 0",
        drafter_only="alpha = 1",
        source=f"{_PAPER}, eq. 15",
        example="token_v3:alpha=0.8",
        alias="token_specific",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0."""
        return self.alpha >= 0

    def keep(self, rows: Rows) -> Tensor:
        """``p~(v) >= (1 - alpha) max p~``."""
        return rows.target_gate >= (1 - self.alpha) * peak(rows.target_gate)


@dataclass(frozen=True)
class TopK(KeepRule):
    """Keep the target's k most likely tokens, and what ties with the last of them.

    Range of k: whole numbers from 0. Strict at 0. Drafter only at k >= V. Source: the top-k rule of the Cactus project.
    """

    k: int = field(metadata=whole(0))
    name: ClassVar[str] = "top_k"
    reads_draft_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.TOP_K
    about: ClassVar[About | None] = About(
        family="token-specific",
        formula="keep v iff p~(v) is among the k largest",
        strict="k = 0",
        drafter_only="k >= V",
        source="Cactus project (top-k)",
        example="top_k:k=2",
    )

    @property
    def lossy(self) -> bool:
        """At k >= 1."""
        return self.k >= 1

    def keep(self, rows: Rows) -> Tensor:
        """``p~(v) >=`` the k-th largest ``p~``."""
        return rows.target_gate >= kth_largest(rows.target_gate, self.k)


@dataclass(frozen=True)
class Margin(KeepRule):
    """Keep the target's best token, and its runner-up iff ``p~(runner-up) >= (1 - alpha) max p~``.

    Range of alpha: [-1, 1]. Strict at alpha < 0; drafter only nowhere (two tokens at most are kept, ties aside).
    Source: MARS (arXiv 2601.15498); equals `TokenV3` within the top 2.
    """

    alpha: float = field(metadata=within(-1, 1))
    name: ClassVar[str] = "margin"
    reads_draft_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.MARGIN
    about: ClassVar[About | None] = About(
        family="token-specific",
        formula="keep v iff p~(v) >= (1 - alpha) max p~ and is among the 2 largest",
        strict="alpha < 0",
        drafter_only="never",
        source="MARS, arXiv 2601.15498",
        example="margin:alpha=0.8",
    )

    @property
    def lossy(self) -> bool:
        """At alpha >= 0."""
        return self.alpha >= 0

    def keep(self, rows: Rows) -> Tensor:
        """``p~(v) >= (1 - alpha) max p~`` and ``p~(v) >=`` the second largest ``p~``."""
        row = rows.target_gate
        return (row >= (1 - self.alpha) * peak(row)) & (row >= kth_largest(row, 2))


def kth_largest(row: Tensor, k: int) -> Tensor:
    """The k-th largest entry of each row, ``[..., 1]``; the smallest where there are fewer than k."""
    return row.topk(min(max(k, 1), row.shape[-1]), dim=-1).values[..., -1:]
