"""How well a drafter agrees with the target on text that it has not learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade_build.drafter.lessons import Lesson
from spec_cascade_build.drafter.student import last_hidden

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.student import Head
    from spec_cascade_build.drafter.text import Answer


@dataclass(frozen=True, slots=True)
class Agreement:
    """Means over the tokens of answers.

    Attributes:
        overlap: ``sum_v min(p, q)``: the chance that a drafted token stands under ``strict`` at temperature 1.
        argmax: The share of tokens at which both find the same one most likely.
    """

    overlap: float
    argmax: float


@torch.no_grad()
def agreement(
    student: PreTrainedModel, head: Head, whole: Head, answers: Sequence[Answer], batch_size: int
) -> Agreement:
    """Measure a student.

    Args:
        student: The drafter.
        head: Its head.
        whole: The target's head.
        answers: The target's text.
        batch_size: Answers at a time.
    """
    overlap = argmax = 0.0
    ordered = sorted(answers, key=lambda answer: len(answer.token_ids))
    for first in range(0, len(ordered), batch_size):
        lesson = Lesson.of(ordered[first : first + batch_size], head.weight.device)
        q = head(last_hidden(student, lesson.token_ids)[lesson.taught]).float().softmax(-1)
        p = whole(lesson.hidden).float().softmax(-1)
        overlap += torch.minimum(head.columns(p), q).sum().item()
        best = q.argmax(-1) if head.token_ids is None else head.token_ids.to(q.device)[q.argmax(-1)]
        argmax += (best == p.argmax(-1)).sum().item()
    total = sum(len(answer.hidden) for answer in answers)
    return Agreement(overlap / total, argmax / total)
