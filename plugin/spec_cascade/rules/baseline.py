"""The rules that others are measured against: the target's own law, and each model alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from spec_cascade.rules.about import About
from spec_cascade.rules.base import DeferralRule, KeepRule
from spec_cascade.rules.kernel_codes import KernelCode

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.rows import Rows


@dataclass(frozen=True)
class Strict(KeepRule):
    """Exact speculative sampling: ``pi = p``; at temperature 0 a draft stands iff it is the target's argmax.

    Keeps nothing, so that every draft must pass the test of ``p / q``. Always lossless.
    Source: Leviathan et al. 2023; Chen et al. 2023.
    """

    name: ClassVar[str] = "strict"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.STRICT
    about: ClassVar[About | None] = About(
        family="baseline",
        formula="pi = p",
        strict="always",
        drafter_only="never",
        source="Leviathan et al. 2023; Chen et al. 2023",
        example="strict",
    )

    @property
    def lossy(self) -> bool:
        """Never."""
        return False

    def keep(self, rows: Rows) -> Tensor:
        """Nothing."""
        return torch.zeros_like(rows.draft_probs[..., :1], dtype=torch.bool)


@dataclass(frozen=True)
class DrafterOnly(KeepRule):
    """The drafter's tokens stand whatever the target says: ``pi = q``. The floor of quality, the ceiling of speed.

    Keeps everything. Lossless nowhere. The bonus token after a whole block is still the target's, as with every rule.
    Source: the small model alone, in Narasimhan et al., ICLR 2025.
    """

    name: ClassVar[str] = "drafter_only"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    drafter_columns: ClassVar[bool] = True
    kernel_code: ClassVar[KernelCode | None] = KernelCode.DRAFTER_ONLY
    about: ClassVar[About | None] = About(
        family="baseline",
        formula="pi = q",
        strict="never",
        drafter_only="always",
        source="the small model of every comparison",
        example="drafter_only",
    )

    def keep(self, rows: Rows) -> Tensor:
        """Everything."""
        return torch.ones_like(rows.draft_probs[..., :1], dtype=torch.bool)


@dataclass(frozen=True)
class TargetOnly(DeferralRule):
    """The target alone, without drafting: ``pi = p`` by plain decoding. The baseline of every speed-up."""

    name: ClassVar[str] = "target_only"
    reads_draft_gate: ClassVar[bool] = False
    reads_target_gate: ClassVar[bool] = False
    kernel_code: ClassVar[KernelCode | None] = KernelCode.TARGET_ONLY
    about: ClassVar[About | None] = About(
        family="baseline",
        formula="pi = p, decoded without drafts",
        strict="always",
        drafter_only="never",
        source="the large model of every comparison",
        example="target_only",
    )

    @property
    def lossy(self) -> bool:
        """Never."""
        return False

    @property
    def drafts(self) -> bool:
        """Never."""
        return False

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:  # noqa: ARG002
        """``p``."""
        return target_probs
