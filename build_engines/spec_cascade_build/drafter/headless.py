"""The target in two parts: up to its last hidden state, and its head."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel


@contextmanager
def without_head(model: PreTrainedModel) -> Iterator[torch.nn.Module]:
    """The head of a model whose logits are, inside the block, its last hidden states."""
    head: torch.nn.Module = model.get_output_embeddings()
    model.set_output_embeddings(torch.nn.Identity())
    try:
        yield head
    finally:
        model.set_output_embeddings(head)
