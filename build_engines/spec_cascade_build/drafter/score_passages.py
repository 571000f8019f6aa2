"""The text that a drafter is scored on: the target's own answers, or a text as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.models import Feed
from spec_cascade.verify import Purpose
from spec_cascade_build.drafter.draws import drawn

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from spec_cascade.engines.pytorch.model import CachedModel

_CHUNK = 128
"""Most prompt tokens of one answer in one forward."""


@dataclass(frozen=True, slots=True)
class Passage:
    """A text with its beginning.

    Attributes:
        token_ids: All of it.
        begin: Where the part begins that is scored; at least one token stands before it.
    """

    token_ids: tuple[int, ...]
    begin: int

    @property
    def scored(self) -> int:
        """Tokens of that part."""
        return len(self.token_ids) - self.begin


def windows(token_ids: Sequence[int], length: int) -> list[Passage]:
    """A text cut into pieces of ``length`` tokens; the first token of each is what the others follow."""
    pieces = [tuple(token_ids[start : start + length]) for start in range(0, len(token_ids), length)]
    return [Passage(piece, 1) for piece in pieces if len(piece) > 1]


@dataclass(slots=True)
class _Line:
    """An answer that is being written in a slot."""

    slot: int
    seed: int
    token_ids: list[int]
    begin: int


class Answers:
    """Lets the target answer prompts by itself: what an engine without drafts would say, seed for seed.

    Args:
        target: As many answers are written at a time as it has slots.
        vocab_size: Tokens that exist.
        end_ids: Tokens that end an answer; they belong to it.
        tokens: Most tokens of an answer.
        temperature: 0 is greedy.
        seed: Of the first answer; the next has the next one.
    """

    def __init__(
        self,
        target: CachedModel,
        *,
        vocab_size: int,
        end_ids: Collection[int],
        tokens: int,
        temperature: float,
        seed: int,
    ) -> None:
        self._target = target
        self._vocab_size = vocab_size
        self._end_ids = frozenset(end_ids)
        self._tokens = tokens
        self._temperature = temperature
        self._seed = seed

    def write(self, prompts: Sequence[Sequence[int]], advance: Callable[[int], None]) -> list[Passage]:
        """An answer to each prompt, in order; ``advance`` is told how many have ended since it was last called."""
        slots = len(self._target.cache.lengths)
        lines = [_Line(i % slots, self._seed + i, list(ids), len(ids)) for i, ids in enumerate(prompts)]
        for first in range(0, len(lines), slots):
            live = lines[first : first + slots]
            while live:
                self._step(live)
                going = [line for line in live if not self._is_over(line)]
                advance(len(live) - len(going))
                live = going
            for slot in range(slots):
                self._target.truncate(slot, 0)
        return [Passage(tuple(line.token_ids), line.begin) for line in lines]

    @torch.inference_mode()
    def _step(self, live: Sequence[_Line]) -> None:
        """One token for each line whose prompt has been read."""
        feeds, drawing = [], []
        for line in live:
            pending = line.token_ids[self._target.length(line.slot) :]
            whole = len(pending) <= _CHUNK
            feeds.append(Feed(line.slot, pending[:_CHUNK], rows=int(whole)))
            if whole:
                drawing.append(line)
        logits = self._target.forward(feeds)
        if not drawing:
            return
        tokens = drawn(
            logits,
            [line.seed for line in drawing],
            [len(line.token_ids) - line.begin for line in drawing],
            Purpose.DRAW,
            temperature=self._temperature,
            vocab_size=self._vocab_size,
        )
        for line, token in zip(drawing, tokens.tolist(), strict=True):
            line.token_ids.append(token)

    def _is_over(self, line: _Line) -> bool:
        written = len(line.token_ids) - line.begin
        return written == self._tokens or (written > 0 and line.token_ids[-1] in self._end_ids)
