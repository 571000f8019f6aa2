"""The next token: weights of one row per sequence summed by tiles, then the one tile that holds the threshold searched.

Weights are taken in vocabulary order and their sums in float64, as in `spec_cascade.verify.sampling.draw`.
"""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.cuts import in_prefix
from spec_cascade.verify.fused.decide import FROM_RESIDUAL, KNOWN, PLAN_FLOATS, PLAN_INTEGERS
from spec_cascade.verify.fused.jit import jit
from spec_cascade.verify.fused.tiles import inverse_temperature, load_logits


@jit
def sum_weights(
    draft: tl.tensor,
    target: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    temperature: tl.tensor,
    plan: tl.tensor,
    plan_indices: tl.tensor,
    sums: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    tile: tl.constexpr,
    has_draft: tl.constexpr,
) -> None:
    """One program per tile of a sequence; ``sums`` float64 ``[B, 2, tiles]``: weights, target's row."""
    sequence = (tl.program_id(0) // tiles).to(tl.int64)
    part = tl.program_id(0) % tiles
    if tl.load(plan_indices + sequence * PLAN_INTEGERS) != KNOWN:
        inverse = inverse_temperature(tl.load(temperature + sequence))
        weights, target_row = _weights(
            draft, target, plan, plan_indices, sequence, part, inverse,
            draft_stride_b, draft_stride_k, target_stride_b, target_stride_k, vocab, tile, has_draft,
        )  # fmt: skip
        out = sums + sequence * (2 * tiles) + part
        tl.store(out, tl.sum(weights.to(tl.float64), 0))
        tl.store(out + tiles, tl.sum(target_row.to(tl.float64), 0))


@jit
def draw_token(
    draft: tl.tensor,
    target: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    temperature: tl.tensor,
    uniforms: tl.tensor,
    plan: tl.tensor,
    plan_indices: tl.tensor,
    sums: tl.tensor,
    packed: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    lanes: tl.constexpr,
    tile: tl.constexpr,
    has_draft: tl.constexpr,
) -> None:
    """One program per sequence: the token of the first weight whose cumulated sum exceeds u times the total."""
    sequence = tl.program_id(0).to(tl.int64)
    integers = plan_indices + sequence * PLAN_INTEGERS
    if tl.load(integers) != KNOWN:
        lane = tl.arange(0, lanes)
        at = sums + sequence * (2 * tiles) + lane
        tile_sums = tl.load(at, mask=lane < tiles, other=0.0)
        # A rejection whose residual is empty is a rounding of an acceptance of 1: the target's row stands in.
        empty = (tl.sum(tile_sums, 0) > 0) == 0
        tile_sums = tl.where(empty, tl.load(at + tiles, mask=lane < tiles, other=0.0), tile_sums)
        chosen = tl.load(uniforms + (sequence * (length + 1) + tl.load(integers + 1)) * 2 + 1)
        reached = tl.cumsum(tile_sums, 0)
        threshold = chosen * tl.sum(tile_sums, 0)
        part = _first_above(reached, tile_sums, threshold, lane, lanes)
        before = tl.sum(tl.where(lane < part, tile_sums, 0.0), 0)

        inverse = inverse_temperature(tl.load(temperature + sequence))
        weights, target_row = _weights(
            draft, target, plan, plan_indices, sequence, part, inverse,
            draft_stride_b, draft_stride_k, target_stride_b, target_stride_k, vocab, tile, has_draft,
        )  # fmt: skip
        weights = tl.where(empty, target_row, weights).to(tl.float64)
        inner = tl.arange(0, tile)
        token = part * tile + _first_above(tl.cumsum(weights, 0), weights, threshold - before, inner, tile)
        tl.store(packed + sequence * (length + 3) + 1, token)


@jit
def _first_above(
    reached: tl.tensor, weights: tl.tensor, threshold: tl.tensor, lane: tl.tensor, lanes: tl.constexpr
) -> tl.tensor:
    """The first lane with weight at which ``reached`` exceeds the threshold; the last with weight where none does."""
    first = tl.min(tl.where((weights > 0) & (reached > threshold), lane, lanes), 0)
    last = tl.max(tl.where(weights > 0, lane, 0), 0)
    return tl.where(first == lanes, last, first)


@jit
def _weights(
    draft: tl.tensor,
    target: tl.tensor,
    plan: tl.tensor,
    plan_indices: tl.tensor,
    sequence: tl.tensor,
    part: tl.tensor,
    inverse: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    vocab: tl.tensor,
    tile: tl.constexpr,
    has_draft: tl.constexpr,
) -> tl.tensor:
    """Weights of a tile's tokens, float32, and its part of the target's sampling row.

    The bonus token's weights are the target's row; a replacement's are eta p in the keep set, max(0, eta p - q)
    outside.
    """
    floats = plan + sequence * PLAN_FLOATS
    integers = plan_indices + sequence * PLAN_INTEGERS
    how = tl.load(integers)
    k = tl.load(integers + 1).to(tl.int64)
    hot_token = tl.load(integers + 4)
    on_draft = tl.load(integers + 5) != 0
    offsets = part * tile + tl.arange(0, tile)
    inside = offsets < vocab

    p_logits = load_logits(target, target_stride_b, target_stride_k, sequence, k, offsets, inside)
    p_below = p_logits - tl.load(floats)
    p = tl.exp(p_below * inverse) * tl.load(floats + 1)
    p = tl.where(in_prefix(p_logits, offsets, tl.load(floats + 3), tl.load(integers + 2)), p, 0.0)
    weights = p
    if how == FROM_RESIDUAL:
        hot = (offsets == hot_token).to(tl.float32)
        q = hot
        q_gate = hot
        if has_draft:
            q_logits = load_logits(draft, draft_stride_b, draft_stride_k, sequence, k, offsets, inside)
            q_below = q_logits - tl.load(floats + 4)
            q = tl.exp(q_below * inverse) * tl.load(floats + 5)
            q = tl.where(in_prefix(q_logits, offsets, tl.load(floats + 7), tl.load(integers + 3)), q, 0.0)
            q = tl.where(hot_token >= 0, hot, q)
            q_gate = tl.exp(q_below) * tl.load(floats + 6)
        p_gate = tl.exp(p_below) * tl.load(floats + 2)
        kept = tl.where(on_draft, q_gate, p_gate) >= tl.load(floats + 9)
        weights = tl.maximum(tl.load(floats + 8) * p - tl.where(kept, 0.0, q), 0.0)
    return weights, p
