"""The kernels of a round, launched one after another; nothing waits for the device, so a CUDA graph can hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from spec_cascade.verify.fused.decide import decide
from spec_cascade.verify.fused.jit import run
from spec_cascade.verify.fused.overlap import sum_overlap
from spec_cascade.verify.fused.residual import draw_token, sum_weights
from spec_cascade.verify.fused.rows import finish_rows
from spec_cascade.verify.fused.scratch import Scratch
from spec_cascade.verify.fused.table import RuleTable
from spec_cascade.verify.fused.tiles import summarise_tiles

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.verify.fused.packed import Packed
    from spec_cascade.verify.sampling import BatchSampling

# Bits of a float32 that numbers of a type never set, rounded down to an even count.
LOW_BITS = {torch.float32: 0, torch.float16: 12, torch.bfloat16: 16}
_LARGEST_TILE = 8192
_MANY_PROGRAMS = 8192


def launch(
    draft_tokens: Tensor,
    draft_logits: Tensor | None,
    target_logits: Tensor,
    table: RuleTable,
    sampling: BatchSampling,
    uniforms: Tensor,
    *,
    draft_lengths: Tensor | None = None,
    argmax_drafts: Tensor | None = None,
    vocab_size: int | None = None,
    truncates: bool | None = None,
    tile: int | None = None,
) -> Packed:
    """Decide which drafted tokens stand, and draw the token that follows, all on the device.

    Arguments as in `spec_cascade.verify.verify`; logits are float16, bfloat16 or float32 with a contiguous last
    dimension. In a CUDA graph every tensor may change its contents between replays; the flags of ``table`` and
    ``truncates`` are part of the graph.

    Args:
        draft_tokens: ``[B, K]``.
        draft_logits: ``[B, K, V]`` or None.
        target_logits: ``[B, K+1, V]``.
        table: Rule of each drafted row.
        sampling: Sampling parameters of each sequence.
        uniforms: ``[B, K+1, 2]``, float64.
        draft_lengths: ``[B]`` or None.
        argmax_drafts: ``[B]`` or None; sequences whose drafts were not sampled, so that q is one-hot.
        vocab_size: Tokens that exist.
        truncates: Whether any sequence may have a top-k, top-p or min-p; False saves a launch and ignores them. None
            asks ``sampling``, which waits for the device unless `BatchSampling.of` made it.
        tile: Logits per program, a power of two; None chooses.

    Raises:
        ValueError: The rows are not as wide as ``vocab_size``.
    """
    batch, length = draft_tokens.shape
    device = target_logits.device
    vocab = _vocabulary(draft_logits, target_logits, vocab_size)
    truncates = bool(sampling.traits.truncated) if truncates is None else truncates
    has_draft = draft_logits is not None and length > 0
    draft = draft_logits if draft_logits is not None and has_draft else target_logits
    draft_rows = batch * length if has_draft else 0
    rows = draft_rows + batch * (length + 1)
    tile = tile or choose_tile(rows, vocab)
    tiles, warps = triton.cdiv(vocab, tile), min(max(tile // 512, 1), 16)
    row_tile = min(tile, 4096)

    # What a kernel is compiled for: passes and loads that no row needs are not in it.
    ranks, overlaps = table.ranks and length > 0, table.overlaps and has_draft
    argmax, lanes = argmax_drafts is not None, triton.next_power_of_2(tiles)
    of_tiles = {"gates": table.gates, "entropy": table.entropy, "ragged": draft_lengths is not None}
    of_rows = {"truncates": truncates, "ranks": ranks, "lanes": lanes, **of_tiles}

    draft_tokens, uniforms = draft_tokens.contiguous(), uniforms.double().contiguous()
    # What is not there is not read; any pointer will do.
    lengths = draft_tokens if draft_lengths is None else draft_lengths.contiguous()
    one_hot = draft_tokens if argmax_drafts is None else argmax_drafts.contiguous().view(torch.uint8)
    limits = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p)
    temperature, top_k, top_p, min_p = (limit.contiguous() for limit in limits)

    scratch = Scratch.of(batch, length, rows, tiles, device)
    logits = (draft, target_logits)
    strides = (draft.stride(0), draft.stride(1), target_logits.stride(0), target_logits.stride(1))
    summaries = (scratch.row_fields, scratch.row_indices, scratch.tile_fields, scratch.tile_best)
    plan, packed = (scratch.plan, scratch.plan_indices), scratch.packed.data
    scratch.packed.draft_tokens.copy_(draft_tokens)

    run(
        summarise_tiles, rows * tiles,
        *logits, *strides, lengths, temperature, scratch.tile_fields, scratch.tile_best,
        draft_rows, length, vocab, tiles, tile=tile, warps=warps, **of_tiles,
    )  # fmt: skip
    if truncates or ranks or overlaps:
        run(
            finish_rows, rows,
            *logits, *strides, lengths, temperature, top_k, top_p, min_p, table.codes, table.parameters,
            *summaries, draft_rows, length, vocab, tiles, tile=row_tile, warps=min(max(row_tile // 256, 1), 16),
            draft_low_bits=LOW_BITS[draft.dtype], target_low_bits=LOW_BITS[target_logits.dtype], **of_rows,
        )  # fmt: skip
    if overlaps:
        run(
            sum_overlap, batch * length * tiles,
            *logits, *strides, draft_tokens, table.codes, table.parameters, lengths, one_hot, temperature,
            *summaries, scratch.overlap, draft_rows, length, vocab, tiles,
            tile=tile, argmax=argmax, warps=warps, **of_rows,
        )  # fmt: skip
    run(
        decide, batch,
        *logits, *strides, draft_tokens, table.codes, table.parameters, lengths, one_hot, temperature,
        *summaries, scratch.overlap, uniforms, *plan, packed, draft_rows, length, vocab, tiles,
        width=triton.next_power_of_2(length + 1), overlaps=overlaps, has_draft=has_draft,
        argmax=argmax, warps=4, **of_rows,
    )  # fmt: skip
    run(
        sum_weights, batch * tiles,
        *logits, *strides, temperature, *plan, scratch.weights, vocab, tiles,
        tile=tile, has_draft=has_draft, warps=warps,
    )  # fmt: skip
    run(
        draw_token, batch,
        *logits, *strides, temperature, uniforms, *plan, scratch.weights, packed, length, vocab, tiles,
        lanes=lanes, tile=tile, has_draft=has_draft, warps=warps,
    )  # fmt: skip
    return scratch.packed


def sample(
    logits: Tensor, sampling: BatchSampling, uniforms: Tensor, *, vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """One token from each row of logits ``[B, V]``: a round with nothing drafted.

    Args:
        logits: As in `launch`.
        sampling: Sampling parameters of each sequence.
        uniforms: Numbers in [0, 1), ``[B]``.
        vocab_size: Tokens that exist.

    Returns:
        Token ids ``[B]`` and errors ``[B]``, 0 for none, on the device.
    """
    batch, device = len(logits), logits.device
    nothing = torch.zeros(batch, 0, dtype=torch.long, device=device)
    # A round's numbers are pairs, of which the second draws.
    pairs = uniforms[:, None, None].expand(batch, 1, 2)
    table = RuleTable.nothing(batch, device)
    data = launch(nothing, None, logits.unsqueeze(1), table, sampling, pairs, vocab_size=vocab_size).data
    return data[:, 1].long(), data[:, 2]


def choose_tile(rows: int, vocab: int) -> int:
    """Logits per program: halved for small batches, so that every multiprocessor gets some."""
    tile = _LARGEST_TILE if rows * triton.cdiv(vocab, _LARGEST_TILE) >= _MANY_PROGRAMS else _LARGEST_TILE // 2
    return int(min(tile, triton.next_power_of_2(vocab)))


def _vocabulary(draft_logits: Tensor | None, target_logits: Tensor, vocab_size: int | None) -> int:
    """Tokens that exist.

    Raises:
        ValueError: The models' rows are not wide enough.
    """
    width = min(rows.shape[-1] for rows in (draft_logits, target_logits) if rows is not None)
    if vocab_size is not None and vocab_size > width:
        raise ValueError(f"vocab_size {vocab_size} exceeds the logits' width {width}")
    return vocab_size or width
