"""Counter-based random numbers: a draw depends on (seed, token position, purpose) and on nothing else.

So a request's output does not change with the company it keeps in a batch, nor with the device: Philox4x32-10
(Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) is integer arithmetic.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from spec_cascade.verify.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]])
# What each of the ten rounds adds to the key, [10, 2, 1].
_WEYL = np.arange(10)[:, None, None] * np.array([[0x9E3779B9], [0xBB67AE85]])

_Words = TypeVar("_Words", "NDArray[np.int64]", "Tensor")


class Purpose(IntEnum):
    """What a uniform decides at a token position."""

    ACCEPT = 0
    """Whether the drafted token stands."""
    DRAW = 1
    """Which token follows: residual, bonus, or a plain decoding step."""
    DRAFT = 2
    """Which token the drafter proposes."""


def uniforms(seeds: Tensor, positions: Tensor, purpose: Purpose) -> Tensor:
    """Numbers in [0, 1) with 53 random bits, float64, of the shape that ``seeds`` and ``positions`` broadcast to.

    Args:
        seeds: int64; the 64 bits are the key (a seed >= 2**63 comes as its two's complement).
        positions: int64 >= 0; index of the token within its request's output.
        purpose: The draw's use; different purposes at one position are independent.
    """
    return _uniforms(seeds, positions, torch.full_like(positions, purpose))


def round_uniforms(seeds: Tensor, positions: Tensor, length: int) -> Tensor:
    """The numbers that one round of `verify` needs, ``[B, length + 1, 2]``, float64.

    Row k of sequence b belongs to position ``positions[b] + k``: ``[..., 0]`` accepts, ``[..., 1]`` draws.

    Args:
        seeds: Key of each sequence, int64 ``[B]``.
        positions: Tokens that each sequence has emitted before this round, int64 ``[B]``.
        length: Drafted tokens, K.
    """
    steps = positions[:, None, None] + torch.arange(length + 1, device=positions.device)[:, None]
    return _uniforms(seeds[:, None, None], steps, to_device((Purpose.ACCEPT, Purpose.DRAW), torch.long, steps.device))


def _uniforms(seeds: Tensor, positions: Tensor, purposes: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(seeds.shape, positions.shape, purposes.shape)  # type: ignore[no-untyped-call]
    seeds, positions, purposes = (words.expand(shape).reshape(-1) for words in (seeds, positions, purposes))
    even, odd = torch.stack((positions & _MASK, purposes)), torch.stack((positions >> 32 & _MASK, purposes * 0))
    first, second = philox(even, odd, torch.stack((seeds & _MASK, seeds >> 32 & _MASK)))
    return (((first[0] >> 5) * 2**26 + (second[0] >> 6)).double() * 2.0**-53).view(shape)


def philox(even: Tensor, odd: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Philox4x32-10 on 32-bit words held in int64.

    Args:
        even: Words 0 and 2 of n counters, ``[2, n]``.
        odd: Words 1 and 3, ``[2, n]``.
        key: Both words of n keys, ``[2, n]``.

    Returns:
        Words 0 and 2, and words 1 and 3, of the n results.
    """
    if key.device.type != "cpu":
        multipliers, weyl = (
            to_device(torch.from_numpy(words), torch.long, key.device) for words in (_MULTIPLIERS, _WEYL)
        )
        return _rounds(even, odd, (key + weyl) & _MASK, multipliers, lambda words: words.flip(0))
    # The same arithmetic in numpy, which is several times quicker with a few numbers.
    keys = (key.numpy() + _WEYL) & _MASK
    results = _rounds(even.numpy(), odd.numpy(), keys, _MULTIPLIERS, lambda words: words[::-1])
    return torch.from_numpy(results[0]), torch.from_numpy(results[1])


def _rounds(
    even: _Words, odd: _Words, keys: _Words, multipliers: _Words, swapped: Callable[[_Words], _Words]
) -> tuple[_Words, _Words]:
    for key in keys:
        # int64 products wrap modulo 2**64, which leaves the two 32-bit halves right.
        product = swapped(even * multipliers)
        even, odd = (product >> 32) & _MASK ^ odd ^ key, product & _MASK
    return even, odd
