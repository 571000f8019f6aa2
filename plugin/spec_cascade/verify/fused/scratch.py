"""Memory that the kernels of a round hand to each other; a few kilobytes per row, nothing as wide as the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.verify.fused.decide import PLAN_FLOATS, PLAN_INTEGERS
from spec_cascade.verify.fused.packed import Packed
from spec_cascade.verify.fused.rows import FIELDS

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Scratch:
    """Buffers of one round; R rows are the drafter's, then the target's.

    Attributes:
        tile_fields: Sums and peak of each tile, float32 ``[R, 4, tiles]``.
        tile_best: First argmax of each tile, int32 ``[R, tiles]``.
        row_fields: Numbers of each finished row, float32.
        row_indices: Indices of each finished row, int32.
        overlap: Sums over both rows of a position, float32 ``[B * K, tiles]``.
        plan: How each sequence's next token comes about, float32.
        plan_indices: The same, int32.
        weights: Sums of the weights of the next token, float64 ``[B, 2, tiles]``.
        packed: The verdict.
    """

    tile_fields: Tensor
    tile_best: Tensor
    row_fields: Tensor
    row_indices: Tensor
    overlap: Tensor
    plan: Tensor
    plan_indices: Tensor
    weights: Tensor
    packed: Packed

    @classmethod
    def of(cls, batch: int, length: int, rows: int, tiles: int, device: torch.device) -> Scratch:
        """Buffers for B sequences with K drafts each; their contents mean nothing yet."""

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        return cls(
            tile_fields=empty(rows, 4, tiles),
            tile_best=empty(rows, tiles, dtype=torch.int32),
            row_fields=empty(rows, FIELDS.value),
            row_indices=empty(rows, 2, dtype=torch.int32),
            overlap=empty(batch * length, tiles),
            plan=empty(batch, PLAN_FLOATS.value),
            plan_indices=empty(batch, PLAN_INTEGERS.value, dtype=torch.int32),
            weights=empty(batch, 2, tiles, dtype=torch.float64),
            packed=Packed.empty(batch, length, device),
        )
