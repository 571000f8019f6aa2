"""The text in batches: whole answers of like length, in an order that the seed and the epoch settle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade_build.drafter.text import Answer

_WINDOW = 16
"""Batches among which answers are sorted by length: less padding, and still a new order in every epoch."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Some answers.

    Attributes:
        token_ids: ``[B, T]``, padded with 0 behind each answer's end.
        taught: Which positions' rows are learnt: those in front of a token of the answer, ``[B, T]``, N in all.
        hidden: The target's states there, ``[N, H]``, answer by answer.
    """

    token_ids: Tensor
    taught: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, answers: Sequence[Answer], device: torch.device) -> Lesson:
        """Collect answers."""
        token_ids = pad_sequence([answer.token_ids for answer in answers], batch_first=True)
        taught = torch.zeros(token_ids.shape, dtype=torch.bool)
        for row, answer in zip(taught, answers, strict=True):
            row[answer.prompt - 1 : len(answer.token_ids) - 1] = True
        hidden = torch.cat([answer.hidden for answer in answers])
        return cls(token_ids.to(device), taught.to(device), hidden.to(device))


class Course:
    """All lessons of a text.

    Args:
        answers: The text.
        batch_size: Answers in a lesson; the last ones of an epoch may be left over.
        seed: Of the order.
        device: Where lessons go.
    """

    def __init__(self, answers: Sequence[Answer], batch_size: int, seed: int, device: torch.device) -> None:
        self._answers = answers
        self._batch_size = min(batch_size, len(answers))
        self._seed = seed
        self._device = device
        self._epoch = -1
        self._order: list[list[int]] = []

    def lesson(self, step: int) -> Lesson:
        """The lesson of a step; it depends on nothing but the step."""
        epoch, place = divmod(step, len(self._answers) // self._batch_size)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._ordered(epoch)
        return Lesson.of([self._answers[i] for i in self._order[place]], self._device)

    def _ordered(self, epoch: int) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        shuffled = torch.randperm(len(self._answers), generator=generator).tolist()
        size = self._batch_size
        window = size * _WINDOW
        lessons = []
        for first in range(0, len(shuffled), window):
            part = sorted(shuffled[first : first + window], key=lambda i: len(self._answers[i].token_ids))
            lessons += [part[i : i + size] for i in range(0, len(part) - size + 1, size)]
        return [lessons[i] for i in torch.randperm(len(lessons), generator=generator).tolist()]
