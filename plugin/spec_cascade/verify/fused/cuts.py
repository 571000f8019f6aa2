"""Where top-k, top-p and min-p cut a row, found by bisection on the bits of the logits: no sort, no copy of the row.

The reference sorts a row by falling logit, equal logits by rising index; each of the three keeps a prefix of that
order. A prefix is told by its last logit and, among the tokens that tie with it, by the last index.
"""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.jit import jit


@jit
def find_cut(
    row: tl.tensor,
    peak: tl.tensor,
    mass: tl.tensor,
    inverse: tl.tensor,
    top_k: tl.tensor,
    top_p: tl.tensor,
    min_p: tl.tensor,
    vocab: tl.tensor,
    tile: tl.constexpr,
    low_bits: tl.constexpr,
) -> tl.tensor:
    """Last kept logit, last kept index among its ties, and the mass of what is kept.

    ``peak`` and ``mass`` are the row's largest logit and its sum of exp((l - peak) / T). ``low_bits`` are the bits of
    a float32 that a number of the row's type never sets, rounded down to an even count.
    """
    cut = tl.full([], float("-inf"), tl.float32)
    ties = tl.full([], 0, tl.int32) + vocab
    kept = mass.to(tl.float64)
    if (top_k > 0) & (top_k < vocab):
        cut, above, tied = select(row, peak, inverse, top_k.to(tl.float64), vocab, tile, low_bits, False)
        ties = top_k.to(tl.int32) - above.to(tl.int32)
        kept = _mass(row, cut, -1, peak, inverse, vocab, tile) + ties * _share(cut, peak, inverse)
    if top_p < 1.0:
        wanted = top_p * kept
        last, above, tied = select(row, peak, inverse, wanted, vocab, tile, low_bits, True)
        share = _share(last, peak, inverse)
        # Tied tokens stay while the mass before them is below top-p.
        needed = tl.ceil((wanted - above) / tl.where(share > 0, share, 1.0))
        needed = tl.minimum(tl.maximum(needed, 1.0), tied).to(tl.int32)
        ties = tl.where(last > cut, needed, tl.where(last == cut, tl.minimum(ties, needed), ties))
        cut = tl.maximum(cut, last)
    if min_p > 0.0:
        least = peak + tl.log(min_p).to(tl.float32) / inverse
        ties = tl.where(least > cut, vocab, ties)
        cut = tl.maximum(cut, least)
    tie = _index_of_tie(row, cut, ties, vocab, tile)
    return cut, tie, _mass(row, cut, tie, peak, inverse, vocab, tile).to(tl.float32)


@jit
def in_prefix(logits: tl.tensor, offsets: tl.tensor, cut: tl.tensor, tie: tl.tensor) -> tl.tensor:
    """Whether each token belongs to the prefix that ends at logit ``cut`` and index ``tie``."""
    return (logits > cut) | ((logits == cut) & (offsets <= tie))


@jit
def select(
    row: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    wanted: tl.tensor,
    vocab: tl.tensor,
    tile: tl.constexpr,
    low_bits: tl.constexpr,
    by_mass: tl.constexpr,
) -> tl.tensor:
    """The largest logit t for which the tokens with l >= t are worth ``wanted``; what l > t is worth; how many tie.

    A token is worth 1, or its mass exp((l - peak) / T) if ``by_mass``. Two bits of t are settled per pass.
    """
    key = tl.full([], 0, tl.uint32)
    low = tl.full([], 1 << 30, tl.uint32)
    for _ in range((32 - low_bits) // 2):
        one = key + low
        two = one + low
        three = two + low
        worth_one = tl.zeros([tile], tl.float32)
        worth_two = tl.zeros([tile], tl.float32)
        worth_three = tl.zeros([tile], tl.float32)
        for start in range(0, vocab, tile):
            logits, inside = _load(row, start, vocab, tile)
            worth = _worth(logits, inside, peak, inverse, by_mass)
            keys = _ordered(logits)
            worth_one += tl.where(keys >= one, worth, 0.0)
            worth_two += tl.where(keys >= two, worth, 0.0)
            worth_three += tl.where(keys >= three, worth, 0.0)
        best = tl.where(_total(worth_one) >= wanted, one, key)
        best = tl.where(_total(worth_two) >= wanted, two, best)
        key = tl.where(_total(worth_three) >= wanted, three, best)
        low = low >> 2
    logit = tl.full([], float("-inf"), tl.float32)
    above = tl.zeros([tile], tl.float32)
    tied = tl.zeros([tile], tl.float32)
    for start in range(0, vocab, tile):
        logits, inside = _load(row, start, vocab, tile)
        keys = _ordered(logits) >> low_bits
        here = inside & (keys == (key >> low_bits))
        above += tl.where(keys > (key >> low_bits), _worth(logits, inside, peak, inverse, by_mass), 0.0)
        tied += here.to(tl.float32)
        logit = tl.maximum(logit, tl.max(tl.where(here, logits, float("-inf")), 0))
    return logit, _total(above), _total(tied)


@jit
def _index_of_tie(row: tl.tensor, cut: tl.tensor, ties: tl.tensor, vocab: tl.tensor, tile: tl.constexpr) -> tl.tensor:
    """Index of the ``ties``-th token, counted from 1, whose logit is ``cut``; ``vocab`` where there are fewer."""
    index = tl.full([], 0, tl.int32) + vocab
    seen = tl.full([], 0, tl.int32)
    for start in range(0, vocab, tile):
        logits, inside = _load(row, start, vocab, tile)
        tied = (inside & (logits == cut)).to(tl.int32)
        rank = seen + tl.cumsum(tied, 0)
        found = tl.where((tied != 0) & (rank == ties), start + tl.arange(0, tile), vocab)
        index = tl.minimum(index, tl.min(found, 0))
        seen += tl.sum(tied, 0)
    return index


@jit
def _mass(
    row: tl.tensor,
    cut: tl.tensor,
    tie: tl.tensor,
    peak: tl.tensor,
    inverse: tl.tensor,
    vocab: tl.tensor,
    tile: tl.constexpr,
) -> tl.tensor:
    """Mass, float64, of the prefix that ends at ``cut`` and ``tie``."""
    total = tl.zeros([tile], tl.float32)
    for start in range(0, vocab, tile):
        logits, _ = _load(row, start, vocab, tile)
        kept = in_prefix(logits, start + tl.arange(0, tile), cut, tie)
        total += tl.where(kept, tl.exp((logits - peak) * inverse), 0.0)
    return _total(total)


@jit
def _load(row: tl.tensor, start: tl.tensor, vocab: tl.tensor, tile: tl.constexpr) -> tl.tensor:
    offsets = start + tl.arange(0, tile)
    inside = offsets < vocab
    return tl.load(row + offsets, mask=inside, other=float("-inf")).to(tl.float32), inside


@jit
def _worth(
    logits: tl.tensor, inside: tl.tensor, peak: tl.tensor, inverse: tl.tensor, by_mass: tl.constexpr
) -> tl.tensor:
    worth = inside.to(tl.float32)
    if by_mass:
        worth = tl.exp((logits - peak) * inverse)
    return worth


@jit
def _share(logit: tl.tensor, peak: tl.tensor, inverse: tl.tensor) -> tl.tensor:
    return tl.exp((logit - peak) * inverse).to(tl.float64)


@jit
def _total(values: tl.tensor) -> tl.tensor:
    return tl.sum(values.to(tl.float64), 0)


@jit
def _ordered(logits: tl.tensor) -> tl.tensor:
    """The bits of float32 numbers, changed so that they compare as unsigned integers the way the numbers do."""
    bits = tl.where(logits == 0, 0.0, logits).to(tl.uint32, bitcast=True)
    return tl.where((bits >> 31) != 0, ~bits, bits | 0x80000000)
