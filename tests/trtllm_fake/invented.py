"""Invented models: rows that two tokens decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.trtllm_fake.models import FakeModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

VOCAB = 24


def invented(seed: int = 0, *, vocab_size: int = VOCAB, max_seq_len: int = 512) -> FakeModel:
    """A model that looks at the two newest tokens."""
    table = 2 * torch.randn(vocab_size, vocab_size, vocab_size, generator=torch.Generator().manual_seed(seed))

    def rows(token_ids: Sequence[int]) -> Tensor:
        tokens = torch.tensor([0, *token_ids])
        return table[tokens[:-1], tokens[1:]]

    return FakeModel(rows=rows, vocab_size=vocab_size, max_seq_len=max_seq_len)


def wavering(model: FakeModel, *, every: int = 3, max_seq_len: int | None = None) -> FakeModel:
    """A drafter that is of the model's opinion, but behind every third token or so."""

    def rows(token_ids: Sequence[int]) -> Tensor:
        own = model.rows(token_ids)
        wavers = (torch.tensor(list(token_ids)) * 5 + torch.arange(len(token_ids))) % every == 0
        return torch.where(wavers.unsqueeze(1), own.roll(1, dims=-1), own)

    return FakeModel(rows=rows, vocab_size=model.vocab_size, max_seq_len=max_seq_len or model.max_seq_len)


def constant(token: int, *, vocab_size: int = VOCAB) -> FakeModel:
    """A model that knows one token only."""
    row = torch.zeros(vocab_size)
    row[token] = 9.0
    return FakeModel(rows=lambda token_ids: row.expand(len(token_ids), -1).clone(), vocab_size=vocab_size)


def greedy(model: FakeModel, prompt: Sequence[int], count: int) -> list[int]:
    """What the model says of itself, argmax by argmax."""
    text = list(prompt)
    for _ in range(count):
        text.append(int(model.rows(text)[-1].argmax()))
    return text[len(prompt) :]
