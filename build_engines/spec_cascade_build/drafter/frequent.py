"""Which tokens a drafter with a trimmed head can propose."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from torch import Tensor

    from spec_cascade_build.drafter.text import Answer


def frequent_tokens(answers: Sequence[Answer], count: int, vocab_size: int, eos: Collection[int]) -> Tensor | None:
    """The most frequent tokens of the answers, ascending, ``[count]``; None where that is the whole vocabulary.

    The tokens that end an answer are always among them. Of tokens that are as frequent the lower come first: where a
    tokenizer learnt its merges in order, that is the more frequent one elsewhere.
    """
    if count >= vocab_size:
        return None
    counts = torch.bincount(torch.cat([answer.token_ids[answer.prompt :] for answer in answers]), minlength=vocab_size)
    for token in eos:
        counts[token] = counts.sum() + 1
    return counts.argsort(descending=True, stable=True)[:count].sort().values


def coverage(answers: Sequence[Answer], token_ids: Tensor) -> float:
    """The share of the answers' tokens that are among ``token_ids``."""
    written = torch.cat([answer.token_ids[answer.prompt :] for answer in answers])
    return torch.isin(written, token_ids).double().mean().item()
