"""Lessons in the drafter's own words: which words, behind which text, and what the target says of them."""

from __future__ import annotations

import pytest
import torch

from spec_cascade_build.drafter.lessons import Lesson
from spec_cascade_build.drafter.on_policy import continued
from spec_cascade_build.drafter.student import Head, last_hidden, make_student
from spec_cascade_build.drafter.text import Answer
from tests.tiny import VOCAB, tiny_llama

LENGTH = 3
EVERY_OTHER = torch.arange(0, VOCAB, 2)
NO_END = torch.tensor([], dtype=torch.long)


def answers() -> list[Answer]:
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(VOCAB, (8 + 3 * i,), generator=generator) for i in range(5)]
    return [Answer(text, 3, torch.zeros(len(text) - 3, 32)) for text in texts]


@pytest.fixture(scope="module")
def target():
    model = tiny_llama()
    model.set_attn_implementation("sdpa")
    return model


def decided(target, token_ids: torch.Tensor | None) -> Head:
    """A head so sure of itself that what is drawn is the argmax."""
    return Head(1e4 * Head.of(target, VOCAB, token_ids).weight, None, token_ids)


@pytest.mark.parametrize("known", [None, EVERY_OTHER], ids=["all tokens", "half of them"])
@pytest.mark.parametrize("seed", range(10))
def test_each_text_goes_on_in_the_students_words_and_the_target_teaches_them(target, known, seed: int) -> None:
    student, head = make_student(target, [0, 2]), decided(target, known)
    lesson = Lesson.of(answers(), torch.device("cpu"))
    own = continued(lesson, student, target, head, length=LENGTH, seed=seed, eos=NO_END)
    assert own.taught.sum(-1).tolist() == [LENGTH] * 5
    with torch.no_grad():
        torch.testing.assert_close(own.hidden, last_hidden(target, own.token_ids)[own.taught])
        columns = head(last_hidden(student, own.token_ids)[own.taught]).argmax(-1)
    words = columns if known is None else known[columns]
    assert torch.equal(own.token_ids[:, 1:][own.taught[:, :-1]], words)
    for row, taught, answer in zip(own.token_ids, own.taught, answers(), strict=True):
        kept = int(taught.nonzero()[0]) + 1
        assert answer.prompt <= kept < len(answer.token_ids)
        assert torch.equal(row[:kept], answer.token_ids[:kept])


def test_what_stands_behind_an_end_is_not_learnt(target) -> None:
    student, head = make_student(target, [0, 2]), decided(target, None)
    lesson = Lesson.of(answers(), torch.device("cpu"))
    whole = continued(lesson, student, target, head, length=LENGTH, seed=0, eos=NO_END)
    first = int(whole.taught[0].nonzero()[0])
    end = whole.token_ids[0, first + 1 : first + 2]
    cut = continued(lesson, student, target, head, length=LENGTH, seed=0, eos=end)
    assert cut.taught[0].nonzero().flatten().tolist() == [first]
    torch.testing.assert_close(cut.hidden, last_hidden(target, cut.token_ids).detach()[cut.taught])
