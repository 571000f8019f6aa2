"""What the decoding loop asks of its two models."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from spec_cascade.verify import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens that one sequence gives to one forward.

    Attributes:
        slot: The sequence's slot in the KV cache.
        token_ids: Tokens to append; their keys and values stay in the cache.
        rows: How many of the last positions' logits are wanted.
        drafted: Further tokens, behind ``token_ids``, that are on the device only, ``[n]``; None is none.
    """

    slot: int
    token_ids: Seq[int]
    rows: int
    drafted: Tensor | None = None


class LanguageModel(Protocol):
    """A model with a KV cache of one slot per live sequence."""

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""

    def forward(self, feeds: Seq[Feed]) -> Tensor:
        """Append the tokens of all feeds to their slots in one pass.

        Returns:
            Logits ``[sum of rows, V]``, in the order of the feeds.
        """

    def length(self, slot: int) -> int:
        """Tokens of the slot whose keys and values are cached."""

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot; a shorter slot stays as it is."""

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another and empty the source."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Drafted blocks of B sequences.

    Attributes:
        token_ids: ``[B, K]``, padded with 0 beyond each sequence's length.
        logits: The drafter's raw logits, ``[B, K, V]``; None for one-hot proposals.
        lengths: Drafted tokens of each sequence, B of them; 0 is a plain decoding step.
        argmax: The tokens are the argmax of their rows whatever the temperature: q is one-hot, gates are not.
        caught_up: The drafter fed nothing but what it drafted, and what had just been emitted.
        index: For a drafter that knows a part of the vocabulary only: the token id of each column of ``logits``,
            ``[Vd]``, which are then ``[B, K, Vd]``; None is all.
    """

    token_ids: Tensor
    logits: Tensor | None
    lengths: list[int]
    argmax: bool = False
    caught_up: bool = True
    index: Tensor | None = None

    @classmethod
    def empty(cls, batch: int, device: torch.device) -> Proposal:
        """No draft for any of ``batch`` sequences."""
        return cls(torch.zeros(batch, 0, dtype=torch.long, device=device), None, [0] * batch)

    def take(self, index: Seq[int]) -> Proposal:
        """The proposals of some of the sequences, in ascending order."""
        if len(index) == len(self.lengths):
            return self
        rows = to_device(index, torch.long, self.token_ids.device)
        logits = None if self.logits is None else self.logits[rows]
        return replace(self, token_ids=self.token_ids[rows], logits=logits, lengths=[self.lengths[i] for i in index])

    def without(self, b: int) -> Proposal:
        """The same without the draft of one sequence."""
        return replace(self, lengths=[0 if i == b else length for i, length in enumerate(self.lengths)])


Drafts = Literal["sampled", "argmax", "lookup"]
"""What a drafter proposes: samples of its rows, the argmax of its rows, or tokens that it has no rows for."""


class Drafter(Protocol):
    """Proposes tokens; what it caches follows the sequences by slot."""

    @property
    def drafts(self) -> Drafts:
        """What it proposes."""

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> Proposal:
        """Draft up to ``lengths[b]`` tokens for each sequence; may draft fewer.

        Sequences that speculate without drafting in this round use it to catch up; the others are left alone.
        """

    def truncate(self, slot: int, length: int) -> None:
        """As `LanguageModel.truncate`."""

    def move(self, source: int, destination: int) -> None:
        """As `LanguageModel.move`."""
