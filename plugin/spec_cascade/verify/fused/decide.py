"""Which drafted tokens stand: acceptance of all positions of a sequence at once, and the plan for the next token."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.jit import jit
from spec_cascade.verify.fused.keep import is_token_rule, keep_threshold, needs_distance, reads_draft_row
from spec_cascade.verify.fused.positions import read_positions
from spec_cascade.verify.fused.tiles import draft_length, inverse_temperature

# The smallest normal float32: stands in for 0 in a denominator, as in the reference.
_TINY = tl.constexpr(1.1754943508222875e-38)

# How the next token comes about.
KNOWN = tl.constexpr(0)
FROM_TARGET = tl.constexpr(1)
FROM_RESIDUAL = tl.constexpr(2)

# The plan of a sequence. Floats ``[B, 16]``: the target row's peak logit, 1 / mass, 1 / gate mass, cut; the same of
# the drafter's row; eta and the keep threshold. Integers ``[B, 8]``: how, row, last kept index of the target's and of
# the drafter's row, the drafted token of a one-hot proposal or -1, whether the threshold applies to q~.
PLAN_FLOATS = tl.constexpr(16)
PLAN_INTEGERS = tl.constexpr(8)


@jit
def decide(
    draft: tl.tensor,
    target: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    draft_tokens: tl.tensor,
    codes: tl.tensor,
    parameters: tl.tensor,
    lengths: tl.tensor,
    one_hot: tl.tensor,
    temperature: tl.tensor,
    row_fields: tl.tensor,
    row_indices: tl.tensor,
    tile_fields: tl.tensor,
    tile_best: tl.tensor,
    sums: tl.tensor,
    uniforms: tl.tensor,
    plan: tl.tensor,
    plan_indices: tl.tensor,
    packed: tl.tensor,
    draft_rows: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    width: tl.constexpr,
    lanes: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    truncates: tl.constexpr,
    ranks: tl.constexpr,
    overlaps: tl.constexpr,
    has_draft: tl.constexpr,
    ragged: tl.constexpr,
    argmax: tl.constexpr,
) -> None:
    """One program per sequence; ``width`` is K + 1 rounded up to a power of two.

    Writes accepted, next token (where known), error and the deferred positions to ``packed`` ``[B, K + 3]``.
    """
    sequence = tl.program_id(0).to(tl.int64)
    limit = draft_length(lengths, sequence, length, ragged)
    inverse = inverse_temperature(tl.load(temperature + sequence))
    ks = tl.arange(0, width)
    drafted = ks < limit
    # One value for all positions, but loaded as a block: the interpreter mixes scalar and block truths up.
    heat = tl.load(temperature + sequence + ks * 0)
    hot = ks < 0
    if argmax:
        hot = tl.load(one_hot + sequence + ks * 0) != 0
    if not has_draft:
        hot = ks >= 0
    (
        token, code, p_peak, p_scale, p_gate, p_entropy, p_best, p_cut, p_tie,
        q_peak, q_scale, q_gate, q_entropy, q_best, q_cut, q_tie, p_x, q_x, gate, gate_best, ranked,
    ) = read_positions(
        draft, target, draft_tokens, codes, row_fields, row_indices, tile_fields, tile_best,
        sequence, ks, limit, heat, hot,
        draft_stride_b, draft_stride_k, target_stride_b, target_stride_k,
        draft_rows, length, vocab, tiles, inverse,
        lanes, gates, entropy, truncates, ranks, truncates or ranks or overlaps, has_draft,
    )  # fmt: skip
    parameter = tl.load(parameters + sequence * length + ks, mask=drafted, other=0.0)
    greedy = heat == 0
    # Of one-hot rows D_TV and eta are known; else `sum_overlap` found the one that is needed.
    distance = tl.where(greedy, (q_best != p_best).to(tl.float32), 1.0 - p_x)
    summed = distance
    if overlaps:
        needed = drafted & ~(greedy | hot)
        lane = tl.arange(0, lanes)[None, :]
        at = sums + (sequence * length + ks)[:, None] * tiles + lane
        summed = tl.sum(tl.load(at, mask=needed[:, None] & (lane < tiles), other=0.0).to(tl.float64), 1).to(tl.float32)
        settled = needed & needs_distance(code, parameter, q_gate, p_gate)
        distance = tl.where(greedy | hot, distance, tl.where(settled, summed, 0.0))
    threshold = keep_threshold(code, parameter, q_gate, p_gate, q_entropy, p_entropy, ranked, distance)
    by_token = is_token_rule(code)
    kept = tl.where(by_token, gate >= threshold, threshold < 0)
    # Exactly 1 where the keep set is empty: the law there is p, and not p times a rounding.
    strongest = tl.where(reads_draft_row(code), q_gate, p_gate)
    eta = tl.where(greedy | hot, (gate_best < threshold).to(tl.float32), summed)
    eta = tl.where(by_token & (strongest >= threshold), eta, tl.where(by_token | ~kept, 1.0, 0.0))
    chance = tl.minimum(tl.div_rn(eta * p_x, tl.maximum(q_x, _TINY)), 1.0)
    chance = tl.where(kept, 1.0, chance)
    chosen = tl.load(uniforms + (sequence * (length + 1) + ks) * 2, mask=drafted, other=2.0)
    accept = drafted & (chosen < chance.to(tl.float64))
    accepted = tl.min(tl.where(accept, width, ks), 0)
    deferred = drafted & (ks <= accepted) & ~kept

    none = 6 * (length + 1)
    error = tl.min(_complaint(p_peak, p_scale, ks, ks <= limit, none), 0)
    if has_draft:
        error = tl.minimum(error, tl.min(_complaint(q_peak, q_scale, ks + length + 1, drafted, none), 0))
    out = packed + sequence * (length + 3)
    here = ks == accepted
    tl.store(out, accepted)
    tl.store(out + 1, _pick(p_best, here))
    tl.store(out + 2, tl.where(error == none, 0, error + 1))
    tl.store(out + 3 + ks, deferred.to(tl.int32), mask=ks < length)

    floats = plan + sequence * PLAN_FLOATS
    tl.store(floats, _pick(p_peak, here))
    tl.store(floats + 1, _pick(p_scale, here))
    tl.store(floats + 2, _pick(p_gate, here))
    tl.store(floats + 3, _pick(p_cut, here))
    tl.store(floats + 4, _pick(q_peak, here))
    tl.store(floats + 5, _pick(q_scale, here))
    tl.store(floats + 6, _pick(q_gate, here))
    tl.store(floats + 7, _pick(q_cut, here))
    tl.store(floats + 8, _pick(eta, here))
    tl.store(floats + 9, _pick(threshold, here))
    integers = plan_indices + sequence * PLAN_INTEGERS
    # A one-hot target row leaves no choice: its residual, where there is one, holds the same token.
    how = tl.where(accepted < limit, FROM_RESIDUAL, FROM_TARGET)
    tl.store(integers, tl.where(tl.load(temperature + sequence) == 0, KNOWN, how))
    tl.store(integers + 1, accepted)
    tl.store(integers + 2, _pick(p_tie, here))
    tl.store(integers + 3, _pick(q_tie, here))
    tl.store(integers + 4, _pick(tl.where(hot, token.to(tl.int32), -1), here))
    tl.store(integers + 5, _pick(reads_draft_row(code).to(tl.int32), here))


@jit
def _pick(values: tl.tensor, here: tl.tensor) -> tl.tensor:
    """The one entry of a block that ``here`` marks."""
    return tl.sum(tl.where(here, values, 0), 0)


@jit
def _complaint(peak: tl.tensor, scale: tl.tensor, row: tl.tensor, valid: tl.tensor, none: tl.tensor) -> tl.tensor:
    """3 * row + (0 for NaN, 1 for +inf, 2 for nothing but -inf) of rows without a distribution, else ``none``."""
    bad = (scale != scale) | (peak == float("inf")) | (peak == float("-inf"))
    what = tl.where(peak == float("inf"), 1, tl.where(peak == float("-inf"), 2, 0))
    return tl.where(valid & bad, 3 * row + what, none)
