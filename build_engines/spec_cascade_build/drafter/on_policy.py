"""A lesson in the drafter's own words: what it meets when it drafts a block is its own text, not the target's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.verify import Purpose, uniforms
from spec_cascade_build.drafter.draws import drawn
from spec_cascade_build.drafter.lessons import Lesson
from spec_cascade_build.drafter.student import last_hidden

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.student import Head


@torch.no_grad()
def continued(
    lesson: Lesson,
    student: PreTrainedModel,
    target: PreTrainedModel,
    head: Head,
    *,
    length: int,
    seed: int,
    eos: Tensor,
) -> Lesson:
    """Cut every answer somewhere and let the student go on; the target says what its rows would have been.

    Args:
        lesson: Answers of the target.
        student: Goes on at temperature 1.
        target: Teaches.
        head: Of the student.
        length: Tokens that the student writes.
        seed: Of the cuts and the words.
        eos: Tokens that end an answer, ``[E]``; what the student says behind one is not learnt.

    Returns:
        The shortened texts with the student's words; what is learnt are the rows in front of those words.
    """
    device = lesson.token_ids.device
    places = torch.arange(lesson.token_ids.shape[1], device=device)
    batch = torch.arange(len(lesson.token_ids), device=device)
    first = torch.where(lesson.taught, places, places[-1]).amin(-1)
    answer = lesson.taught.sum(-1)
    share = uniforms(torch.full_like(batch, seed), batch, Purpose.ACCEPT)
    # The last token that is kept.
    ends = first + (share * answer).long()
    token_ids = torch.cat([lesson.token_ids, torch.zeros(len(batch), length, dtype=torch.long, device=device)], 1)
    for k in range(length):
        hidden = last_hidden(student, token_ids[:, : int(ends.max()) + k + 1])[batch, ends + k]
        positions = range(k, len(batch) * length, length)
        columns = drawn(head(hidden), [seed] * len(batch), positions, Purpose.DRAFT)
        words = columns if head.token_ids is None else head.token_ids.to(device)[columns]
        token_ids[batch, ends + k + 1] = words
    places = torch.arange(token_ids.shape[1], device=device)
    taught = (places >= ends[:, None]) & (places < ends[:, None] + length)
    ended = torch.isin(token_ids, eos) & taught.roll(1, dims=1)
    taught &= ended.cumsum(-1) == 0
    width = int(ends.max()) + length + 1
    token_ids, taught = token_ids[:, :width], taught[:, :width]
    return Lesson(token_ids, taught, last_hidden(target, token_ids)[taught])
