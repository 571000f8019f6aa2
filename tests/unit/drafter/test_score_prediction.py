"""The arithmetic of a score: windows, tokens of a round, speed-ups, verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec_cascade_build.drafter.score_prediction import LONGEST, Costs, predict, standing

TEXTS = [[0.5, 0.8, 0.2], [1.0]]
FREE = Costs(draft=0.0, score=(1.0,) * (LONGEST + 1), verify=(0.0,) * (LONGEST + 1))
acceptances = st.lists(st.lists(st.floats(0, 1), max_size=12), min_size=1, max_size=5).filter(any)


def costs(ratio: float) -> Costs:
    """A target whose forward takes a second however many tokens it reads, and a verifier that takes no time."""
    return Costs(draft=ratio, score=FREE.score, verify=FREE.verify)


def naive_standing(texts: list[list[float]], k: int) -> float | None:
    products = [math.prod(text[t : t + k]) for text in texts for t in range(len(text)) if t + k <= len(text)]
    return sum(products) / len(products) if products else None


@given(acceptances)
def test_a_block_stands_as_all_windows_of_all_texts_do_on_average(texts: list[list[float]]):
    found = standing(texts, LONGEST)
    expected = [naive_standing(texts, k) for k in range(1, LONGEST + 1)]
    assert list(found) == pytest.approx([value for value in expected if value is not None])


def test_no_window_leaves_its_text():
    assert standing(TEXTS, LONGEST) == pytest.approx((2.5 / 4, (0.4 + 0.16) / 2, 0.08))


def test_tokens_of_a_round_are_the_bonus_and_what_stands():
    found = predict(TEXTS, FREE)
    assert found.acceptance == pytest.approx(2.5 / 4)
    assert found.tokens == pytest.approx((1 + 0.625, 1 + 0.625 + 0.28, 1 + 0.625 + 0.28 + 0.08))
    assert found.positions == pytest.approx((0.625, 0.28 / 0.625, 0.08 / 0.28))


@pytest.mark.parametrize("a", [0.0, 0.3, 0.9])
def test_even_acceptance_gives_the_geometric_sum(a: float):
    found = predict([[a] * 40], FREE)
    assert found.tokens == pytest.approx([(1 - a ** (k + 1)) / (1 - a) for k in range(1, LONGEST + 1)])


def test_speed_up_is_tokens_times_a_plain_step_over_the_round():
    paid = Costs(draft=0.2, score=(1.0, 1.1, 1.3), verify=(0.1, 0.15, 0.25))
    found = predict([np.array([0.5, 0.5, 0.5])], paid)
    assert found.ratio == pytest.approx(0.2)
    assert found.speed_ups == pytest.approx((1.5 * 1.1 / (0.2 + 1.1 + 0.15), 1.75 * 1.1 / (0.4 + 1.3 + 0.25)))
    assert (found.best, found.best_tokens) == (1, 1.5)


def test_a_perfect_and_cheap_drafter_pays_with_the_longest_block():
    found = predict([[1.0] * 20], costs(0.1))
    assert found.pays
    assert found.verdict == "pays: K = 8, 5.00x predicted"


def test_the_best_block_may_be_a_short_one():
    assert predict([[0.6] * 20], costs(0.25)).verdict == "pays: K = 2, 1.31x predicted"


def test_a_drafter_that_is_too_slow_never_pays():
    found = predict([[0.5] * 20], costs(0.6))
    assert max(found.speed_ups) < 1
    assert found.verdict == "c = 0.60, acceptance 0.50: slower at every K"


def test_a_gain_that_two_decimals_do_not_show_is_none():
    found = predict([[0.404] * 20], costs(0.4))
    assert 1 < found.best_speed_up < 1.005
    assert found.verdict == "c = 0.40, acceptance 0.40: slower at every K"


def test_an_untrained_drafter_is_told_apart_from_a_slow_one():
    expected = "acceptance 0.01: this drafter agrees with the target hardly ever; slower at every K"
    assert predict([[0.01] * 20], costs(0.1)).verdict == expected


def test_nothing_is_predicted_from_no_place():
    with pytest.raises(ValueError, match="no place"):
        predict([[]], FREE)
