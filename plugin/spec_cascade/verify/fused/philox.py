"""`spec_cascade.verify.draws` on the device: the same Philox4x32-10, the same numbers bit for bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton.language as tl

from spec_cascade.verify.draws import Purpose
from spec_cascade.verify.fused.jit import jit, run

if TYPE_CHECKING:
    from torch import Tensor

_BLOCK = 128


def uniforms(seeds: Tensor, positions: Tensor, purpose: Purpose) -> Tensor:
    """The numbers of `spec_cascade.verify.draws.uniforms`, in one kernel instead of a hundred small ones.

    Args:
        seeds: int64, the keys.
        positions: int64 >= 0; broadcast against ``seeds``.
        purpose: The draw's use.
    """
    seeds, positions = torch.broadcast_tensors(seeds, positions)  # type: ignore[no-untyped-call]
    out = torch.empty(seeds.shape, dtype=torch.float64, device=seeds.device)
    run(
        _uniforms_of_pairs,
        -(-out.numel() // _BLOCK),
        seeds.contiguous(),
        positions.contiguous(),
        out,
        out.numel(),
        int(purpose),
        _BLOCK,
    )
    return out


def round_uniforms(seeds: Tensor, positions: Tensor, length: int) -> Tensor:
    """The numbers that one round of `verify` needs, ``[B, length + 1, 2]``, float64.

    Row k of sequence b belongs to position ``positions[b] + k``: ``[..., 0]`` accepts, ``[..., 1]`` draws.

    Args:
        seeds: Key of each sequence, int64 ``[B]``.
        positions: Tokens that each sequence has emitted before this round, int64 ``[B]``.
        length: Drafted tokens, K.
    """
    out = torch.empty((seeds.shape[0], length + 1, 2), dtype=torch.float64, device=seeds.device)
    run(
        _uniforms_of_round,
        -(-out.numel() // _BLOCK),
        seeds.contiguous(),
        positions.contiguous(),
        out,
        out.numel(),
        length + 1,
        int(Purpose.ACCEPT),
        int(Purpose.DRAW),
        _BLOCK,
    )
    return out


@jit
def _uniforms_of_pairs(
    seeds: tl.tensor, positions: tl.tensor, out: tl.tensor, count: tl.tensor, purpose: tl.tensor, block: tl.constexpr
) -> None:
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < count
    seed = tl.load(seeds + index, mask=inside, other=0)
    position = tl.load(positions + index, mask=inside, other=0)
    tl.store(out + index, uniform(seed, position, position * 0 + purpose), mask=inside)


@jit
def _uniforms_of_round(
    seeds: tl.tensor,
    positions: tl.tensor,
    out: tl.tensor,
    count: tl.tensor,
    rows: tl.tensor,
    accept: tl.tensor,
    draw: tl.tensor,
    block: tl.constexpr,
) -> None:
    index = tl.program_id(0) * block + tl.arange(0, block)
    inside = index < count
    row = index // 2
    sequence = row // rows
    seed = tl.load(seeds + sequence, mask=inside, other=0)
    position = tl.load(positions + sequence, mask=inside, other=0) + row % rows
    purpose = tl.where(index % 2 == 0, accept, draw).to(tl.int64)
    tl.store(out + index, uniform(seed, position, purpose), mask=inside)


@jit
def uniform(seed: tl.tensor, position: tl.tensor, purpose: tl.tensor) -> tl.tensor:
    """Numbers in [0, 1) with 53 random bits from int64 blocks of keys, positions and purposes."""
    mask: tl.constexpr = 0xFFFFFFFF
    # 32-bit words in int64, as in the reference: products wrap modulo 2**64, which leaves both halves right.
    k0 = seed & mask
    k1 = (seed >> 32) & mask
    c0 = position & mask
    c1 = (position >> 32) & mask
    c2 = purpose & mask
    c3 = purpose * 0
    for _ in tl.static_range(10):
        m0 = c0 * 0xD2511F53
        m1 = c2 * 0xCD9E8D57
        c0 = ((m1 >> 32) & mask) ^ c1 ^ k0
        c1 = m1 & mask
        c2 = ((m0 >> 32) & mask) ^ c3 ^ k1
        c3 = m0 & mask
        k0 = (k0 + 0x9E3779B9) & mask
        k1 = (k1 + 0xBB67AE85) & mask
    bits = (c0 >> 5) * 67108864 + (c1 >> 6)
    return bits.to(tl.float64) * 1.1102230246251565e-16
