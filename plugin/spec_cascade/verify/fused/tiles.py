"""First pass: what each tile of each row of logits says of its row, and the reduction of tiles to rows."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.jit import jit

# Fields of a tile, float32 ``[rows, 4, tiles]``: the largest logit m, the sum of exp((l - m) / T), the sum of
# exp(l - m), and the sum of (l - m) exp(l - m). At T = 0 the second sum is the third: it only serves to find NaN.


@jit
def summarise_tiles(
    draft: tl.tensor,
    target: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    lengths: tl.tensor,
    temperature: tl.tensor,
    fields: tl.tensor,
    best: tl.tensor,
    draft_rows: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    tile: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    ragged: tl.constexpr,
) -> None:
    """One program per tile of a row; rows are ``[B, K]`` drafted ones, then ``[B, K + 1]`` of the target.

    Rows beyond a sequence's draft length are not read.
    """
    row = tl.program_id(0) // tiles
    part = tl.program_id(0) % tiles
    is_draft = row < draft_rows
    width = tl.where(is_draft, length, length + 1)
    within = tl.where(is_draft, row, row - draft_rows)
    sequence = (within // width).to(tl.int64)
    k = (within % width).to(tl.int64)
    limit = draft_length(lengths, sequence, length, ragged)
    if k < tl.where(is_draft, limit, limit + 1):
        offsets = part * tile + tl.arange(0, tile)
        inside = offsets < vocab
        if is_draft:
            logits = load_logits(draft, draft_stride_b, draft_stride_k, sequence, k, offsets, inside)
        else:
            logits = load_logits(target, target_stride_b, target_stride_k, sequence, k, offsets, inside)
        peak = tl.max(logits, 0)
        # A tile of nothing but -inf has no peak to subtract; its sums are 0.
        below = logits - tl.where(peak == float("-inf"), 0.0, peak)
        heat = tl.load(temperature + sequence)
        inverse = inverse_temperature(heat)
        mass = tl.sum(tl.exp(below * inverse), 0)
        out = fields + row.to(tl.int64) * (4 * tiles) + part
        tl.store(out, peak)
        tl.store(out + tiles, mass)
        if gates:
            gate_mass = mass
            if inverse != 1.0:
                gate_mass = tl.sum(tl.exp(below), 0)
            tl.store(out + 2 * tiles, gate_mass)
        if entropy:
            share = tl.exp(below)
            tl.store(out + 3 * tiles, tl.sum(tl.where(share > 0, share * below, 0.0), 0))
        if heat == 0:
            first = tl.min(tl.where(logits == peak, offsets, vocab - 1), 0)
            tl.store(best + row.to(tl.int64) * tiles + part, first)


@jit
def draft_length(lengths: tl.tensor, sequence: tl.tensor, length: tl.tensor, ragged: tl.constexpr) -> tl.tensor:
    """Drafted tokens of a sequence, int64; ``lengths`` is read for ``ragged`` blocks only."""
    limit = sequence * 0 + length
    if ragged:
        limit = tl.load(lengths + sequence).to(tl.int64)
    return limit


@jit
def load_logits(
    base: tl.tensor,
    stride_b: tl.tensor,
    stride_k: tl.tensor,
    sequence: tl.tensor,
    k: tl.tensor,
    offsets: tl.tensor,
    inside: tl.tensor,
) -> tl.tensor:
    """Logits of one row at ``offsets``, float32; -inf where not ``inside``."""
    row = base + sequence * stride_b + k * stride_k
    return tl.load(row + offsets, mask=inside, other=float("-inf")).to(tl.float32)


@jit
def inverse_temperature(temperature: tl.tensor) -> tl.tensor:
    """1 / T in float32; 1 at T = 0, where rows are one-hot and the scale means nothing."""
    return (1.0 / tl.where(temperature == 0, 1.0, temperature)).to(tl.float32)


@jit
def reduce_tiles(
    fields: tl.tensor,
    best: tl.tensor,
    rows: tl.tensor,
    valid: tl.tensor,
    inverse: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    lanes: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
) -> tl.tensor:
    """Reduce the tiles of ``rows`` ``[R]`` to (peak, mass, gate mass, gate entropy, argmax), each ``[R]``.

    The argmax means something for rows at temperature 0 only. Rows that are not ``valid`` come out as those
    of a vocabulary of nothing. ``lanes`` is ``tiles`` rounded up to a power of two.
    """
    lane = tl.arange(0, lanes)[None, :]
    loaded = valid[:, None] & (lane < tiles)
    at = fields + rows[:, None].to(tl.int64) * (4 * tiles) + lane
    tile_peak = tl.load(at, mask=loaded, other=float("-inf"))
    peak = tl.max(tile_peak, 1)
    below = tl.where(tile_peak == float("-inf"), float("-inf"), tile_peak - peak[:, None])
    mass = _sum(tl.load(at + tiles, mask=loaded, other=0.0) * tl.exp(below * inverse))
    gate_mass = mass
    gate_entropy = mass
    if gates:
        scale = tl.exp(below)
        tile_mass = tl.load(at + 2 * tiles, mask=loaded, other=0.0)
        gate_mass = _sum(tile_mass * scale)
        if entropy:
            # Sum of (l - M) exp(l - M) over the row, from each tile's sum around its own peak.
            moment = tl.load(at + 3 * tiles, mask=loaded, other=0.0)
            moment = tl.where(scale > 0, (moment + below * tile_mass) * scale, 0.0)
            gate_entropy = tl.log(gate_mass) - _sum(moment) / gate_mass
    first = tl.load(best + rows[:, None].to(tl.int64) * tiles + lane, mask=loaded, other=0)
    # Without a peak, as in a row of NaN, the answer is wrong but an index.
    argmax = tl.min(tl.where(tile_peak == peak[:, None], first, vocab - 1), 1)
    return peak, mass, gate_mass, gate_entropy, argmax


@jit
def _sum(values: tl.tensor) -> tl.tensor:
    return tl.sum(values.to(tl.float64), 1).to(tl.float32)
