"""The rows that rules look at, and where a row stands in its request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """The four rows of one or many positions.

    Attributes:
        draft_probs: q, ``[..., V]``.
        target_probs: p, ``[..., V]``.
        draft_gate: q~, ``[..., V]``; empty for a rule that does not read it.
        target_gate: p~, ``[..., V]``; empty for a rule that does not read it.
        draft_index: Set where the drafter knows a part of the vocabulary only: ``[Vd]``, the token id of each column of
            q and q~, which are then ``[..., Vd]``.
    """

    draft_probs: Tensor
    target_probs: Tensor
    draft_gate: Tensor
    target_gate: Tensor
    draft_index: Tensor | None = None

    def on_draft(self, row: Tensor) -> Tensor:
        """A row over the vocabulary, ``[..., V]``, at the tokens that the drafter knows."""
        return row if self.draft_index is None else row.index_select(-1, self.draft_index)

    def column(self, tokens: Tensor) -> Tensor:
        """The columns of q that belong to ``tokens`` ``[...]``, which the drafter must know."""
        if self.draft_index is None:
            return tokens
        return (tokens.unsqueeze(-1) == self.draft_index).byte().argmax(-1)

    def whole(self) -> Rows:
        """The rows with q and q~ over the whole vocabulary, 0 at the tokens that the drafter does not know."""
        if self.draft_index is None:
            return self
        width, index = self.target_probs.shape[-1], self.draft_index

        def widen(row: Tensor) -> Tensor:
            unread = row.shape == (0,)
            return row if unread else row.new_zeros((*row.shape[:-1], width)).index_copy_(-1, index, row)

        q = widen(self.draft_probs)
        q_gate = q if self.draft_gate is self.draft_probs else widen(self.draft_gate)
        return Rows(q, self.target_probs, q_gate, self.target_gate)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in its request a row stands; what a guard may look at.

    Attributes:
        position: Tokens that the request has emitted before this row.
        token_ids: Prompt and output before this row; empty for a rule that looks at the position only.
    """

    position: int = 0
    token_ids: Sequence[int] = ()


NOWHERE = Place()


def at_token(row: Tensor, tokens: Tensor) -> Tensor:
    """The entries ``[...]`` of rows ``[..., V]`` at ``tokens`` ``[...]``."""
    return row.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)


def peak(row: Tensor) -> Tensor:
    """The largest entry, ``[..., 1]``."""
    return row.amax(-1, keepdim=True)


def row_sum(row: Tensor) -> Tensor:
    """The sum ``[..., 1]`` of rows ``[..., V]``, each bit of it independent of how many rows there are.

    torch splits the sum of a single row among threads, which rounds in another order than for several rows.
    """
    if row[..., 0].numel() == 1 and row.device.type == "cpu":
        return torch.stack((row, row)).sum(-1, keepdim=True)[0]
    return row.sum(-1, keepdim=True)


def tiny(row: Tensor) -> float:
    """The smallest normal number of the row's type: stands in for 0 in a denominator."""
    return torch.finfo(row.dtype).tiny
