"""A smoke generation's job, and the pair of models that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.tensorrt_llm.smoke import SmokeJob
from tests.trtllm_fake.models import FakeModel
from tests.trtllm_fake.stage import register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

VOCABULARY = 24
RULE = "token_v3:alpha=0.5"
JOB = SmokeJob(
    model="target",
    drafter="drafter",
    rules=(RULE,),
    draft_length=3,
    prompts=((1, 2, 3), (4, 5), (6, 7, 8, 9)),
    max_tokens=12,
    end_id=-1,
)


def register_pair() -> None:
    """Make the two models known by the names of the job: a target, and a drafter that is sometimes wrong."""
    register("target", _model(3))
    register("drafter", _model(3, noise=2.0))


def _model(seed: int, noise: float = 0.0) -> FakeModel:
    """Rows that depend on the last two tokens."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(VOCABULARY, VOCABULARY, VOCABULARY, generator=generator) * 3
    table += noise * torch.randn(table.shape, generator=torch.Generator().manual_seed(seed + 1))

    def rows(token_ids: Sequence[int]) -> Tensor:
        before = [0, *token_ids[:-1]]
        return torch.stack([table[a, b] for a, b in zip(before, token_ids, strict=True)])

    return FakeModel(rows=rows, vocab_size=VOCABULARY, max_seq_len=64)
