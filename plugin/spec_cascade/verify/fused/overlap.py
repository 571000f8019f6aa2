"""Sums over both rows of a position, for the rules and rows that need one: D_TV(p, q), or eta of a rejectable token."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.cuts import in_prefix
from spec_cascade.verify.fused.jit import jit
from spec_cascade.verify.fused.keep import is_token_rule, keep_threshold, needs_distance, reads_draft_row
from spec_cascade.verify.fused.positions import read_positions
from spec_cascade.verify.fused.tiles import draft_length, inverse_temperature, load_logits


@jit
def sum_overlap(
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
    draft_rows: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    lanes: tl.constexpr,
    tile: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    truncates: tl.constexpr,
    ranks: tl.constexpr,
    ragged: tl.constexpr,
    argmax: tl.constexpr,
) -> None:
    """One program per tile of a drafted position; ``sums`` ``[B, K, tiles]`` stay untouched where nothing needs them.

    D_TV is the sum of max(0, q - p), eta the drafter's mass outside the keep set. Rows of which one is one-hot need
    neither: their sums are known from the drafted token.
    """
    within = tl.program_id(0) // tiles
    part = tl.program_id(0) % tiles
    sequence = (within // length).to(tl.int64)
    k = (within % length).to(tl.int64)
    limit = draft_length(lengths, sequence, length, ragged)
    heat = tl.load(temperature + sequence)
    sampled = heat != 0
    if argmax:
        sampled = sampled & (tl.load(one_hot + sequence) == 0)
    if (k < limit) & sampled:
        inverse = inverse_temperature(heat)
        ks = k + tl.arange(0, 1)
        none = tl.arange(0, 1) > 0
        (
            _, code, p_peak, p_scale, p_gate, p_entropy, _, p_cut, p_tie,
            q_peak, q_scale, q_gate, q_entropy, _, q_cut, q_tie, _, _, gate, _, ranked,
        ) = read_positions(
            draft, target, draft_tokens, codes, row_fields, row_indices, tile_fields, tile_best,
            sequence, ks, limit, tl.load(temperature + sequence + tl.arange(0, 1)), none,
            draft_stride_b, draft_stride_k, target_stride_b, target_stride_k,
            draft_rows, length, vocab, tiles, inverse,
            lanes, gates, entropy, truncates, ranks, True, True,
        )  # fmt: skip
        parameter = tl.load(parameters + sequence * length + ks)
        threshold = keep_threshold(
            code, parameter, q_gate, p_gate, q_entropy, p_entropy, ranked, tl.zeros([1], tl.float32)
        )
        distance = tl.sum(needs_distance(code, parameter, q_gate, p_gate).to(tl.int32), 0) != 0
        eta = tl.sum((is_token_rule(code) & (gate < threshold)).to(tl.int32), 0) != 0
        if distance | eta:
            offsets = part * tile + tl.arange(0, tile)
            inside = offsets < vocab
            p_logits = load_logits(target, target_stride_b, target_stride_k, sequence, k, offsets, inside)
            q_logits = load_logits(draft, draft_stride_b, draft_stride_k, sequence, k, offsets, inside)
            values = tl.exp((q_logits - q_peak) * inverse) * q_scale
            values = tl.where(in_prefix(q_logits, offsets, q_cut, q_tie), values, 0.0)
            if distance:
                p = tl.exp((p_logits - p_peak) * inverse) * p_scale
                p = tl.where(in_prefix(p_logits, offsets, p_cut, p_tie), p, 0.0)
                values = tl.maximum(values - p, 0.0)
            else:
                on_draft = reads_draft_row(code)
                logits = tl.where(on_draft, q_logits - q_peak, p_logits - p_peak)
                gates_of = tl.exp(logits) * tl.where(on_draft, q_gate, p_gate)
                values = tl.where(gates_of >= threshold, 0.0, values)
            tl.store(sums + within.to(tl.int64) * tiles + part, tl.sum(values, 0))
