"""Tokens drawn from rows of logits by counter-based numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import EngineError
from spec_cascade.verify import BatchSampling, sample, to_device, uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.verify import Purpose


def drawn(
    logits: Tensor,
    seeds: Sequence[int],
    positions: Sequence[int],
    purpose: Purpose,
    *,
    temperature: float = 1.0,
    vocab_size: int | None = None,
) -> Tensor:
    """A token ``[n]`` from each row ``[n, V]``.

    Args:
        logits: The rows.
        seeds: Of each row.
        positions: Of each row; with its seed and the purpose it decides the number that is drawn.
        purpose: What the token is for.
        temperature: 0 is greedy.
        vocab_size: Tokens that exist; None is all of V.

    Raises:
        EngineError: A row makes no distribution.
    """
    device = logits.device
    sampling = BatchSampling.of([SamplingParams(temperature=temperature)] * len(logits), device)
    numbers = uniforms(to_device(seeds, torch.long, device), to_device(positions, torch.long, device), purpose)
    tokens, sound = sample(logits, sampling, numbers, vocab_size=vocab_size)
    if not bool(sound.all()):
        raise EngineError("the logits make no distribution")
    return tokens
