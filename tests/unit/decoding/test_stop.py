"""Where an output ends: the first token that may end it, and nothing behind."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from spec_cascade.decoding.request import FinishReason
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.stop import StopConditions
from spec_cascade.decoding.text import stop_cut
from tests.unit.decoding.sample_tokenizers import TOKENIZERS

EOS, STOP = 9, 8
STOPS = StopConditions(frozenset([EOS]), max_seq_len=50)
TOKENIZER = TOKENIZERS["byte_level"]
WITH_TEXT = StopConditions(frozenset([EOS]), 1000, partial(stop_cut, TOKENIZER))


def cut(new: list[int], output: tuple[int, ...] = (), **parameters: Any) -> tuple[list[int], FinishReason | None]:
    return STOPS.cut(3, output, new, SamplingParams(**parameters))


def test_an_end_token_ends_the_output_and_stands_in_it() -> None:
    assert cut([1, EOS, 2]) == ([1, EOS], FinishReason.STOP)
    assert cut([1, STOP, 2], stop_token_ids=(STOP,)) == ([1, STOP], FinishReason.STOP)
    assert cut([1, EOS, 2], ignore_eos=True) == ([1, EOS, 2], None)
    assert cut([1, STOP, 2]) == ([1, STOP, 2], None)


def test_the_tokens_that_end_are_the_models_and_the_requests() -> None:
    assert STOPS.end_ids(SamplingParams(stop_token_ids=(STOP,))) == {EOS, STOP}
    assert STOPS.end_ids(SamplingParams(stop_token_ids=(STOP,), ignore_eos=True)) == {STOP}
    assert STOPS.end_ids(SamplingParams(ignore_eos=True)) == frozenset()


@given(
    least=st.integers(0, 8),
    tokens=st.lists(st.sampled_from([1, 2, STOP, EOS]), min_size=1, max_size=12),
    before=st.integers(0, 12),
)
def test_the_first_token_that_may_end_is_the_one_behind_the_least_length(
    least: int, tokens: list[int], before: int
) -> None:
    output, new = tuple(tokens[:before]), tokens[before:]
    assume(new)
    ends = [i for i in range(max(least, len(output)), len(tokens)) if tokens[i] in (STOP, EOS)]
    kept, reason = cut(new, output, stop_token_ids=(STOP,), min_tokens=least)
    assert (*output, *kept) == tuple(tokens[: ends[0] + 1] if ends else tokens)
    assert reason == (FinishReason.STOP if ends else None)


@pytest.mark.parametrize("least", [0, 4])
def test_the_most_tokens_end_the_output_whatever_the_least(least: int) -> None:
    assert cut([1, 2, 3, 4, 5], max_tokens=4, min_tokens=least) == ([1, 2, 3, 4], FinishReason.LENGTH)
    assert cut([1], output=(2,) * 46, max_tokens=100, min_tokens=90) == ([1], FinishReason.LENGTH)


def test_a_stop_string_within_the_least_length_ends_nothing() -> None:
    first, second = (TOKENIZER.encode(text, add_special_tokens=False) for text in ("one END", " two END three"))
    parameters = SamplingParams(stop_strings=("END",), min_tokens=len(first))
    kept, reason = WITH_TEXT.cut(3, first[:2], [*first[2:], *second], parameters)
    assert TOKENIZER.decode([*first[:2], *kept]) == "one END two END"
    assert reason is FinishReason.STOP
    assert WITH_TEXT.cut(3, (), first, parameters) == (first, None)


def test_a_stop_string_that_begins_within_the_least_length_ends_the_output_behind_it() -> None:
    ids = TOKENIZER.encode("one END", add_special_tokens=False)
    parameters = SamplingParams(stop_strings=("END",), min_tokens=len(ids) - 1)
    assert WITH_TEXT.cut(3, (), ids, parameters) == (ids, FinishReason.STOP)
