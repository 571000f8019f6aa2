"""The losses are the divergences that they are named after."""

from __future__ import annotations

import torch

from spec_cascade_build.drafter.agreement import agreement
from spec_cascade_build.drafter.distil import divergence, total_variation
from spec_cascade_build.drafter.lessons import Lesson
from spec_cascade_build.drafter.student import Head, last_hidden, make_student
from spec_cascade_build.drafter.text import Answer
from tests.tiny import VOCAB, tiny_llama


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    learnt, taught = (torch.randn(5, 11, generator=generator, dtype=torch.float64) for _ in range(2))
    return learnt, taught


def test_the_divergence_is_that_of_the_drafters_row_from_the_targets() -> None:
    learnt, taught = rows()
    p, q = taught.softmax(-1), learnt.softmax(-1)
    torch.testing.assert_close(divergence(learnt, taught), (p * (p / q).log()).sum(-1).mean())


def test_the_total_variation_is_half_the_distance_of_the_rows() -> None:
    learnt, taught = rows()
    torch.testing.assert_close(
        total_variation(learnt, taught), (taught.softmax(-1) - learnt.softmax(-1)).abs().sum(-1).mean() / 2
    )


def test_the_total_variation_is_what_is_measured_as_no_agreement() -> None:
    target = tiny_llama()
    target.set_attn_implementation("sdpa")
    student, whole = make_student(target, [0, 2]), Head.of(target, VOCAB, None)
    token_ids = torch.randint(VOCAB, (20,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        hidden = last_hidden(target, token_ids[None])[0, 3:-1]
        answer = Answer(token_ids, 4, hidden)
        lesson = Lesson.of([answer], torch.device("cpu"))
        refused = total_variation(whole(last_hidden(student, lesson.token_ids)[lesson.taught]), whole(lesson.hidden))
        overlap = agreement(student, whole, whole, [answer], 1).overlap
        torch.testing.assert_close(1 - refused.item(), overlap, atol=1e-6, rtol=0)
