"""The second step: a row's tiles reduced to the handful of numbers that decisions need, and its cuts found."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.verify.fused.cuts import find_cut, select
from spec_cascade.verify.fused.jit import jit
from spec_cascade.verify.fused.tiles import draft_length, inverse_temperature, reduce_tiles

_TOP_K = tl.constexpr(int(KernelCode.TOP_K))
_MARGIN = tl.constexpr(int(KernelCode.MARGIN))

# Fields of a row, float32 ``[rows, 8]``: peak logit, mass of the sampling row (after its cut), mass of the gate row,
# entropy of the gate row, last kept logit, logit at the rank that the rule asks for. Integers ``[rows, 2]``: argmax,
# last kept index among ties.
FIELDS = tl.constexpr(8)


@jit
def finish_rows(
    draft: tl.tensor,
    target: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    lengths: tl.tensor,
    temperature: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    codes: tl.tensor,
    parameters: tl.tensor,
    row_fields: tl.tensor,
    row_indices: tl.tensor,
    tile_fields: tl.tensor,
    tile_best: tl.tensor,
    draft_rows: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    lanes: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    truncates: tl.constexpr,
    ranks: tl.constexpr,
    ragged: tl.constexpr,
    tile: tl.constexpr,
    draft_low_bits: tl.constexpr,
    target_low_bits: tl.constexpr,
) -> None:
    """One program per row, in the order of `summarise_tiles`."""
    row = tl.program_id(0)
    is_draft = row < draft_rows
    width = tl.where(is_draft, length, length + 1)
    within = tl.where(is_draft, row, row - draft_rows)
    sequence = (within // width).to(tl.int64)
    k = (within % width).to(tl.int64)
    limit = draft_length(lengths, sequence, length, ragged)
    if k < tl.where(is_draft, limit, limit + 1):
        heat = tl.load(temperature + sequence)
        inverse = inverse_temperature(heat)
        rows = row + tl.arange(0, 1)
        peaks, masses, gate_masses, entropies, firsts = reduce_tiles(
            tile_fields, tile_best, rows, rows >= 0, inverse, vocab, tiles, lanes, gates, entropy
        )
        peak = tl.sum(peaks, 0)
        whole = tl.sum(masses, 0)
        mass = whole
        out = row_fields + row.to(tl.int64) * FIELDS
        indices = row_indices + row.to(tl.int64) * 2
        tl.store(out, peak)
        tl.store(out + 2, tl.sum(gate_masses, 0))
        tl.store(out + 3, tl.sum(entropies, 0))
        tl.store(indices, tl.sum(firsts, 0))
        target_row = target + sequence * target_stride_b + k * target_stride_k
        if truncates:
            cut = tl.full([], float("-inf"), tl.float32)
            tie = tl.full([], 0, tl.int32) + vocab
            wanted_k = tl.load(top_k + sequence)
            wanted_p = tl.load(top_p + sequence)
            least_p = tl.load(min_p + sequence)
            if (heat != 0) & ((wanted_k > 0) | (wanted_p < 1.0) | (least_p > 0.0)):
                draft_row = draft + sequence * draft_stride_b + k * draft_stride_k
                if is_draft:
                    cut, tie, mass = find_cut(
                        draft_row, peak, mass, inverse, wanted_k, wanted_p, least_p, vocab, tile, draft_low_bits
                    )
                else:
                    cut, tie, mass = find_cut(
                        target_row, peak, mass, inverse, wanted_k, wanted_p, least_p, vocab, tile, target_low_bits
                    )
            tl.store(out + 4, cut)
            tl.store(indices + 1, tie)
        # A cut passes over NaN, which makes no row better.
        tl.store(out + 1, tl.where(whole == whole, mass, whole))
        if ranks:
            judged = (is_draft == 0) & (k < limit)
            if judged:
                code = tl.load(codes + sequence * length + k)
                if (code == _TOP_K) | (code == _MARGIN):
                    rank = tl.load(parameters + sequence * length + k)
                    rank = tl.where(code == _MARGIN, 2.0, tl.maximum(rank, 1.0))
                    wanted = tl.minimum(rank, vocab)
                    logit, _, _ = select(target_row, peak, inverse, wanted, vocab, tile, target_low_bits, False)
                    tl.store(out + 5, logit)


@jit
def load_rows(
    row_fields: tl.tensor,
    row_indices: tl.tensor,
    tile_fields: tl.tensor,
    tile_best: tl.tensor,
    rows: tl.tensor,
    valid: tl.tensor,
    inverse: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    lanes: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    finished: tl.constexpr,
) -> tl.tensor:
    """(peak, 1 / mass, 1 / gate mass, gate entropy, argmax) of ``rows``; from tiles where `finish_rows` did not run.

    A probability is exp((l - peak) / T) times the reciprocal, everywhere: at the peak it is the reciprocal itself, so
    that comparisons with the largest probability tie where they should.
    """
    if finished:
        at = row_fields + rows.to(tl.int64) * FIELDS
        peak = tl.load(at, mask=valid, other=float("-inf"))
        mass = tl.load(at + 1, mask=valid, other=0.0)
        gate_mass = tl.load(at + 2, mask=valid, other=0.0)
        gate_entropy = tl.load(at + 3, mask=valid, other=0.0)
        argmax = tl.load(row_indices + rows.to(tl.int64) * 2, mask=valid, other=0)
    else:
        peak, mass, gate_mass, gate_entropy, argmax = reduce_tiles(
            tile_fields, tile_best, rows, valid, inverse, vocab, tiles, lanes, gates, entropy
        )
    one = tl.full(peak.shape, 1.0, tl.float32)
    return peak, tl.div_rn(one, mass), tl.div_rn(one, gate_mass), gate_entropy, argmax
