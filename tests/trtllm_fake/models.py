"""The models that a test gives to the fake: functions from tokens to rows of logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeModel:
    """A model, for a path that ``LLM(model=...)`` or ``speculative_model=...`` names.

    Attributes:
        rows: Given a sequence's n tokens from its beginning, the float32 logits ``[n, vocab_size]``: row i tells what
            follows token i. Asked for the whole sequence again and again; it must give the same rows each time.
        vocab_size: Columns of the rows.
        max_seq_len: Where the model's window ends.
        d2t: For a drafter of fewer tokens, what to add to each of its token ids to have the target's, ``[vocab_size]``.
    """

    rows: Callable[[Sequence[int]], Tensor]
    vocab_size: int
    max_seq_len: int = 4096
    d2t: Tensor | None = None


def hugging_face(model: Any, *, max_seq_len: int = 4096) -> FakeModel:
    """A Hugging Face causal model, for the fake."""

    @torch.inference_mode()
    def rows(token_ids: Sequence[int]) -> Tensor:
        logits: Tensor = model(torch.tensor([list(token_ids)])).logits[0]
        return logits.float()

    return FakeModel(rows=rows, vocab_size=model.config.vocab_size, max_seq_len=max_seq_len)
