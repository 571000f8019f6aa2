"""Shaping on a GPU: what it is on the CPU, and without a wait for the device."""

from __future__ import annotations

import pytest
import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.shaping import Shaping

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCAB = 128_256
PARAMETERS = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.25, "min_tokens": 100}


def test_a_block_is_shaped_as_on_the_cpu_and_never_waits_for_the_device() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, VOCAB, generator=generator).bfloat16()
    prompt, output = (torch.randint(VOCAB, (n,), generator=generator).tolist() for n in (300, 60))
    shaping = Shaping.of(
        SamplingParams(**PARAMETERS), prompt, bad_word_ids=[[7], [output[-1], 8]], end_ids=frozenset([2])
    )
    assert shaping is not None
    drafted = [output[0], 9, 9, output[-1]]
    on_gpu = logits.cuda()
    shaping.apply_block(on_gpu, output, drafted)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        shaped = shaping.apply_block(on_gpu, output, drafted)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(shaped.cpu(), shaping.apply_block(logits, output, drafted))
