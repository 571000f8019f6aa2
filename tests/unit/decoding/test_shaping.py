"""What a request does to logits: equal to transformers' processors and to OpenAI's formula, on every row of a block."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
)

from spec_cascade.decoding.sampling import COLDEST, SamplingParams
from spec_cascade.decoding.shaping import Shaping
from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

INF = math.inf
VOCAB = 12
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=20)
WORDS = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3), max_size=4)
PENALTIES = st.fixed_dictionaries(
    {
        "repetition_penalty": st.floats(0.1, 10),
        "presence_penalty": st.floats(-2, 2),
        "frequency_penalty": st.floats(-2, 2),
    }
)


def shaping(
    prompt: Sequence[int], *, words: Sequence[Sequence[int]] = (), ends: Sequence[int] = (), **parameters: Any
) -> Shaping:
    made = Shaping.of(SamplingParams(**parameters), prompt, bad_word_ids=words, end_ids=frozenset(ends))
    assert made is not None
    return made


def row(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (4 * torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def naive_openai(logits: Tensor, output: Sequence[int], presence: float, frequency: float) -> list[float]:
    """mu[j] -> mu[j] - c[j] * alpha_frequency - float(c[j] > 0) * alpha_presence, as OpenAI's API reference has it."""
    values = logits.tolist()
    for j in range(len(values)):
        count = sum(1 for token in output if token == j)
        values[j] = values[j] - count * frequency - float(count > 0) * presence
    return values


def test_a_request_that_asks_for_nothing_is_not_shaped() -> None:
    def of(words: Sequence[Sequence[int]] = (), ends: Sequence[int] = (), **parameters: Any) -> Shaping | None:
        return Shaping.of(SamplingParams(**parameters), [1, 2], bad_word_ids=words, end_ids=frozenset(ends))

    assert of(ends=[3]) is None
    assert of(words=[[]]) is None
    assert of(min_tokens=4) is None
    assert of(ends=[3], min_tokens=4) is not None
    assert of(words=[[3]]) is not None
    assert of(repetition_penalty=1.1) is not None
    assert of(presence_penalty=0.1) is not None
    assert of(frequency_penalty=-0.1) is not None


@given(st.integers(0, 99), TOKENS, TOKENS, st.floats(0.05, 20))
def test_repetition_is_that_of_transformers(seed: int, prompt: list[int], output: list[int], penalty: float) -> None:
    logits = row(seed)
    assume(penalty != 1 and prompt + output)
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + output]), logits[None].clone())[0]
    assert torch.equal(shaping(prompt, repetition_penalty=penalty).apply(logits, output), wanted)


@given(st.integers(0, 99), TOKENS, TOKENS, st.floats(-2, 2), st.floats(-2, 2))
def test_presence_and_frequency_are_those_of_openai_over_the_output_only(
    seed: int, prompt: list[int], output: list[int], presence: float, frequency: float
) -> None:
    assume(presence or frequency)
    logits = row(seed)
    shaped = shaping(prompt, presence_penalty=presence, frequency_penalty=frequency).apply(logits, output)
    wanted = naive_openai(logits, output, presence, frequency)
    torch.testing.assert_close(shaped, torch.tensor(wanted, dtype=torch.float64), rtol=1e-14, atol=1e-14)


@given(st.integers(0, 99), TOKENS, TOKENS, PENALTIES)
def test_repetition_comes_before_presence_and_frequency(
    seed: int, prompt: list[int], output: list[int], penalties: dict[str, float]
) -> None:
    """The order of vLLM."""
    assume(penalties["repetition_penalty"] != 1 and prompt + output)
    logits = row(seed)
    processor = RepetitionPenaltyLogitsProcessor(penalties["repetition_penalty"])
    repeated = processor(torch.tensor([prompt + output]), logits[None].clone())[0]
    wanted = naive_openai(repeated, output, penalties["presence_penalty"], penalties["frequency_penalty"])
    shaped = shaping(prompt, **penalties).apply(logits, output)
    torch.testing.assert_close(shaped, torch.tensor(wanted, dtype=torch.float64), rtol=1e-13, atol=1e-13)


@given(st.integers(0, 99), TOKENS, TOKENS, WORDS)
def test_bad_words_are_banned_as_in_transformers(
    seed: int, prompt: list[int], output: list[int], words: list[list[int]]
) -> None:
    # transformers bans nothing while a whole sequence would be longer than the text; one more token in front lets it.
    text = [VOCAB - 1, *prompt, *output]
    assume(words and len(text) >= 3)
    logits = row(seed)
    wanted = NoBadWordsLogitsProcessor(words)(torch.tensor([text]), logits[None].clone())[0]
    assert torch.equal(shaping([VOCAB - 1, *prompt], words=words).apply(logits, output), wanted)


@given(st.integers(0, 99), TOKENS, TOKENS, st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=3))
def test_no_end_token_comes_before_the_least_length_as_in_transformers(
    seed: int, prompt: list[int], output: list[int], ends: set[int]
) -> None:
    logits = row(seed)
    processor = MinNewTokensLengthLogitsProcessor(len(prompt), 5, sorted(ends))
    wanted = processor(torch.tensor([prompt + output]), logits[None].clone())[0]
    assert torch.equal(shaping(prompt, ends=sorted(ends), min_tokens=5).apply(logits, output), wanted)
    assert wanted.isneginf().any() == (len(output) < 5)


def test_a_word_whose_first_tokens_are_the_whole_text_is_banned() -> None:
    assert shaping([3, 4], words=[[3, 4, 5]]).apply(row(0), []).isneginf().nonzero().tolist() == [[5]]


def test_a_word_may_begin_in_the_prompt_and_in_the_drafted_block() -> None:
    made = shaping([1, 2], words=[[2, 3, 4]])
    assert made.apply(row(0), [3])[4] == -INF
    assert made.apply(row(0), [5])[4] > -INF
    rows = made.apply_block(torch.zeros(4, VOCAB), [2], [3, 2, 3])
    assert rows.isneginf().nonzero().tolist() == [[1, 4], [3, 4]]


@given(
    data=st.data(),
    seed=st.integers(0, 99),
    prompt=TOKENS,
    output=TOKENS,
    drafted=st.lists(st.integers(0, VOCAB - 1), max_size=6),
    words=WORDS,
    penalties=PENALTIES,
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
@settings(max_examples=200)
def test_each_row_of_a_block_is_the_row_alone_to_the_last_bit(
    data: st.DataObject,
    seed: int,
    prompt: list[int],
    output: list[int],
    drafted: list[int],
    words: list[list[int]],
    penalties: dict[str, float],
    dtype: torch.dtype,
) -> None:
    """With and without the bonus row; what a plain step sees is what a round sees at the same place."""
    number = data.draw(st.sampled_from([len(drafted), len(drafted) + 1]))
    logits = torch.stack([row(seed + k, dtype) for k in range(number)]) if number else torch.zeros(0, VOCAB)
    before = logits.clone()
    made = shaping(prompt, words=words, ends=[0, 5], min_tokens=8, **penalties)
    block = made.apply_block(logits, output, drafted)
    assert torch.equal(logits, before)
    assert block.dtype == (torch.float64 if logits.dtype == torch.float64 else torch.float32)
    for k in range(number):
        alone = made.apply(logits[k], [*output, *drafted[:k]])
        assert torch.equal(block[k], alone)


def test_half_precision_is_shaped_in_single_precision() -> None:
    logits = row(1, torch.bfloat16)
    made = shaping([0, 1], repetition_penalty=1.3, frequency_penalty=0.7)
    assert torch.equal(made.apply(logits, [1, 2, 2]), made.apply(logits.float(), [1, 2, 2]))


def test_a_row_that_the_bans_would_leave_empty_keeps_what_they_banned() -> None:
    logits = torch.full((2, 4), -INF)
    logits[0, 1], logits[1, 1], logits[1, 3] = 2.0, 3.0, -1.0
    shaped = shaping([0], words=[[1]], ends=[2], min_tokens=4).apply_block(logits, [], [0])
    assert torch.equal(shaped[0], logits[0])
    assert shaped[1].tolist() == [-INF, -INF, -INF, -1.0]


@given(st.floats(1e-300, 1e300), st.floats(-2, 2))
def test_what_was_finite_stays_finite_at_the_coldest_temperature(penalty: float, presence: float) -> None:
    assume((penalty, presence) != (1, 0))
    logits = torch.tensor([-INF, -1e4, 0.0, 1e-20, 1e4, 1.0])
    shaped = shaping(range(6), repetition_penalty=penalty, presence_penalty=presence).apply(logits, range(6))
    assert shaped[0] == -INF
    assert (shaped[1:] / COLDEST).isfinite().all()


def test_tokens_that_the_row_is_too_narrow_for_are_left_out() -> None:
    made = shaping(
        [1, 99], words=[[99], [1, 98]], ends=[97], min_tokens=9, repetition_penalty=2.0, presence_penalty=1.0
    )
    logits = torch.ones(2, VOCAB)
    shaped = made.apply_block(logits, [2, 96], [95])
    assert shaped[:, 1].tolist() == [0.5, 0.5]
    assert shaped[:, 2].tolist() == [-0.5, -0.5]
    assert shaped[:, 3:].eq(1).all()


def test_the_same_shaping_serves_rows_of_two_widths() -> None:
    """The drafter's vocabulary may be padded otherwise than the target's."""
    made = shaping([1, 11], repetition_penalty=2.0)
    assert made.apply(torch.ones(VOCAB), []).tolist().count(0.5) == 2
    assert made.apply(torch.ones(VOCAB - 1), []).tolist().count(0.5) == 1
    assert made.apply(torch.ones(VOCAB), []).tolist().count(0.5) == 2


def test_a_sampled_stream_repeats_less_with_a_frequency_penalty() -> None:
    """End to end over rows: a peaked row that would always give one token gives others once that token is frequent."""
    made = shaping([], frequency_penalty=2.0)
    logits, output = torch.tensor([3.0, 0.0, 0.0]), list[int]()
    for _ in range(9):
        output.append(int(made.apply(logits, output).argmax()))
    # 3 - 2n falls under 0 after two, then the three take turns.
    assert Counter(output) == {0: 4, 1: 3, 2: 2}


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"repetition_penalty": INF}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"presence_penalty": math.nan}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"frequency_penalty": INF}, "frequency_penalty"),
        ({"bad_words": ("a", "")}, "bad_words"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_its_field(parameters: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{field} = "):
        SamplingParams(**parameters)
