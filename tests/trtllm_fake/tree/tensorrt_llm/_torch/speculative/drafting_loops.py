"""Drafting in one call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _Chain:
    """Drafts argmax tokens one behind the other, whatever the requests' temperatures are.

    Args:
        max_draft_len: K.
        max_total_draft_tokens: K too; trees have more.
        draft_model: What is wrapped.
    """

    def __init__(self, max_draft_len: int, max_total_draft_tokens: int, draft_model: Any) -> None:
        self.max_draft_len = max_draft_len
        self.max_total_draft_tokens = max_total_draft_tokens
        self.draft_model = draft_model

    def forward(
        self,
        texts: list[list[int]],
        rows: Callable[[Sequence[int]], Tensor],
        feed: Callable[[int, int, int], None],
    ) -> tuple[Tensor, list[Tensor]]:
        """Tokens ``[K, B]``, and the rows ``[B, V]`` of each step.

        Args:
            texts: Behind which to draft, B of them; they grow.
            rows: What the model says of a text.
            feed: Told which token is fed at which position of which text.
        """
        d2t = getattr(self.draft_model.model, "d2t", None)
        drafted, kept = [], []
        for _ in range(self.max_draft_len):
            for i, text in enumerate(texts if drafted else ()):
                feed(i, len(text) - 1, text[-1])
            last = torch.stack([rows(text)[-1] for text in texts])
            tokens = last.argmax(-1)
            if d2t is not None:
                tokens = tokens + d2t.data[tokens]
            for text, token in zip(texts, tokens.tolist(), strict=True):
                text.append(token)
            drafted.append(tokens)
            kept.append(last)
        return torch.stack(drafted), kept


if current().shape.since_1_2_0:

    class LinearDraftingLoopWrapper(_Chain):
        """The chain loop."""

else:

    class ChainDrafter(_Chain):
        """The chain loop."""
