"""The texts that a drafter learns from."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from math import log
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.engines.pytorch.load import load_target
from spec_cascade.errors import ConfigError
from spec_cascade_build.drafter.conversation import read_prompts
from spec_cascade_build.drafter.make import make
from spec_cascade_build.drafter.score_settings import PROMPTS
from spec_cascade_build.drafter.student import last_hidden
from spec_cascade_build.drafter.text import load_answers
from spec_cascade_build.errors import BuildError
from tests.unit.drafter.recipes import TEXT, pair_of, quiet, shard

if TYPE_CHECKING:
    from collections.abc import Sequence

DRAFTERS = Path(__file__).parents[3] / "build_engines/drafters"
SCORED_ON_LAKES = "What is the difference between a lake and a pond?"


def test_prompts_from_a_file_are_answered_in_turn(place: Path) -> None:
    (place / "prompts.txt").write_text("# comment\nthe cat\n\nthe dog\n", encoding="utf-8")
    make(pair_of(place, text={**TEXT, "prompts": "prompts.txt"}), place / "work", quiet())
    answers = load_answers(shard(place / "work", 0))
    first, second = (answer.token_ids[: answer.prompt].tolist() for answer in answers[:2])
    assert first != second
    assert answers[2].token_ids[: answers[2].prompt].tolist() == first


def test_the_stored_states_are_those_that_the_target_has_on_the_whole_text(place: Path) -> None:
    make(pair_of(place), place / "work", quiet())
    target = load_target(place / "work" / "target" / "target", torch.float32, torch.device("cpu"))
    target.set_attn_implementation("sdpa")
    for answer in load_answers(shard(place / "work", 1)):
        with torch.no_grad():
            states = last_hidden(target, answer.token_ids[None])[0]
        torch.testing.assert_close(answer.hidden, states[answer.prompt - 1 : -1], rtol=1e-3, atol=1e-4)


def test_another_recipe_of_a_text_does_not_go_on_with_the_old_text(place: Path) -> None:
    make(pair_of(place), place / "work", quiet())
    old = shard(place / "work", 0)
    make(pair_of(place, text={**TEXT, "temperature": 0.5}), place / "work", quiet())
    (new,) = (path for path in place.glob("work/text/*/00000.safetensors") if path != old)
    assert new.read_bytes() != old.read_bytes()


def test_another_seed_does_not_go_on_with_the_old_text(place: Path) -> None:
    make(pair_of(place), place / "work", quiet())
    with pytest.raises(BuildError, match="was begun with another target, dtype or seed"):
        make(pair_of(place, seed=1), place / "work", quiet())


def test_several_texts_are_learnt_together(place: Path) -> None:
    (place / "prompts.txt").write_text("the cat\nthe dog\n", encoding="utf-8")
    asked = {**TEXT, "prompts": "prompts.txt", "answers": 20, "temperature": 0}
    directory, made = make(pair_of(place, text=[TEXT, asked]), place / "work", quiet())
    # A tenth of each is held out.
    assert (made.figures["answers"], made.figures["held_out"]) == (36 + 18, 4 + 2)
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert "40 answers of at most 24 tokens at temperature 1 to prompts that the target wrote" in card
    assert "20 answers of at most 24 tokens at temperature 0 to prompts of prompts.txt" in card
    # What one text holds does not depend on the others.
    make(pair_of(place, text=[asked]), place / "alone", quiet())
    (alone,) = place.glob("alone/text/*/00001.safetensors")
    assert alone.read_bytes() == (place / "work" / alone.relative_to(place / "alone")).read_bytes()


def test_the_same_text_twice_is_refused(place: Path) -> None:
    """What is held out of one would be learnt from the other."""
    for name in ("prompts.txt", "same.txt"):
        (place / name).write_text("the cat\nthe dog\n", encoding="utf-8")
    texts = [{**TEXT, "prompts": "prompts.txt"}, TEXT, {**TEXT, "prompts": "same.txt", "answers": 60}]
    with pytest.raises(ConfigError, match=r"drafter.make.text\[2\] = .* must be another text than text\[0\]"):
        make(pair_of(place, text=texts), place / "work", quiet())


def test_a_text_at_temperature_0_says_what_is_most_likely(place: Path) -> None:
    make(pair_of(place, text={**TEXT, "temperature": 0}), place / "work", quiet())
    target = load_target(place / "work" / "target" / "target", torch.float32, torch.device("cpu"))
    for answer in load_answers(shard(place / "work", 0)):
        rows = target.get_output_embeddings()(answer.hidden)
        said = rows.gather(-1, answer.token_ids[answer.prompt :, None].long()).squeeze(-1)
        torch.testing.assert_close(said, rows.max(-1).values, atol=1e-4, rtol=0)


def test_more_answers_go_on_with_the_old_ones(place: Path) -> None:
    make(pair_of(place), place / "work", quiet())
    old = shard(place / "work", 1).read_bytes()
    make(pair_of(place, text={**TEXT, "answers": 60}), place / "work", quiet())
    assert shard(place / "work", 1).read_bytes() == old
    assert len(load_answers(shard(place / "work", 3))) == 12


@pytest.mark.parametrize("learnt_from", sorted(DRAFTERS.glob("*.txt")), ids=lambda path: path.stem)
def test_no_prompt_that_a_drafter_is_scored_on_is_one_that_the_demos_drafter_learnt_from(learnt_from: Path) -> None:
    learnt = read_prompts(learnt_from)
    alike = Alikeness(learnt)
    assert alike("what's the difference between a pond and a lake", SCORED_ON_LAKES) > 0.6
    assert max(alike(a, b) for a in read_prompts(PROMPTS) for b in learnt) < 0.4


class Alikeness:
    """How much of their words two prompts share, each word weighed by how rare it is among many prompts.

    Questions of one pattern, "What is the difference between a ... and a ...", are not alike by that alone.
    """

    def __init__(self, prompts: Sequence[str]) -> None:
        counts = Counter(word for prompt in prompts for word in _words(prompt))
        self._weight = {word: log((len(prompts) + 1) / (count + 1)) for word, count in counts.items()}
        self._unheard = log(len(prompts) + 1)

    def __call__(self, a: str, b: str) -> float:
        """From 0 to 1."""
        return self._of(_words(a) & _words(b)) / self._of(_words(a) | _words(b))

    def _of(self, words: frozenset[str]) -> float:
        return sum(self._weight.get(word, self._unheard) for word in words)


@cache
def _words(prompt: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", prompt.lower()))
