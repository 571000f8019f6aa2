"""When, and how much, is drafted: from known acceptances and costs to draft lengths."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spec_cascade.decoding.acceptance import Acceptance, AcceptanceByRule
from spec_cascade.decoding.costs import Line, RoundCosts
from spec_cascade.decoding.policy import DraftPolicy, PolicySettings
from spec_cascade.decoding.request import AUTO, GenerationRequest
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.decoding.switch import Switch, SwitchSettings
from spec_cascade.rules import parse_rule
from tests.unit.decoding.bench import Bench, prompt

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX = 8


def line(base: float, slope: float) -> Line:
    fitted = Line()
    for tokens in (1, 2, 4, 8, 16, 32):
        fitted.add(tokens, base + slope * tokens)
    return fitted


def costs(ratio: float, slope: float = 0.0) -> RoundCosts:
    """A drafter of ``ratio`` of the target's cost; ``slope`` is what each further token adds to either's."""
    return RoundCosts(line(ratio, ratio * slope), line(1.0, slope), line(0.0, 0.0))


def sequence(
    draft_length: int | None = None, *, default: int = 4, rule: str = "strict", reproducible: bool = False
) -> Sequence:
    request = GenerationRequest(prompt_ids=(1,), draft_length=draft_length, reproducible=reproducible)
    chosen = default if draft_length is None else draft_length
    made = Sequence(request=request, rule=parse_rule(rule), draft_length=chosen, token_ids=[1])
    made.statistics.rule = rule
    return made


def policy(ratio: float, *, fallback: bool = True, slope: float = 0.0) -> DraftPolicy:
    made = DraftPolicy(PolicySettings(max_draft_length=MAX, fallback=fallback))
    made.costs = costs(ratio, slope)
    return made


def teach(made: DraftPolicy, one: Sequence, accepted: Iterable[int], drafted: int = 4) -> None:
    for count in accepted:
        made.observe(one, drafted, count)


def test_a_line_is_found_again_and_forgets() -> None:
    fitted = line(2.0, 0.5)
    assert fitted.seconds(1) == pytest.approx(2.5)
    assert fitted.seconds(100) == pytest.approx(52.0)
    for _ in range(4000):
        for tokens in (1, 8):
            fitted.add(tokens, 1.0)
    assert fitted.seconds(1) == pytest.approx(1.0, rel=0.02)


def test_a_line_without_spread_says_the_mean_and_never_less_than_nothing() -> None:
    fitted = Line()
    assert fitted.seconds(5) == 0
    fitted.add(5, 1.0)
    fitted.add(5, 3.0)
    assert fitted.seconds(1) == fitted.seconds(50) == pytest.approx(2.0, rel=0.01)
    falling = Line()
    falling.add(1, 3.0)
    falling.add(9, 1.0)
    assert falling.seconds(100) == pytest.approx(2.0, rel=0.01)
    steep = Line()
    steep.add(10, 1.0)
    steep.add(20, 4.0)
    assert 0 < steep.seconds(1) < 1


def test_one_stall_does_not_make_a_machine_slow() -> None:
    fitted = Line()
    for _ in range(20):
        fitted.add(1, 1.0)
    fitted.add(1, 1000.0)
    assert fitted.seconds(1) < 1.2


def test_a_round_costs_its_steps_its_rows_and_nothing_for_those_who_do_not_draft() -> None:
    one = RoundCosts(line(0.1, 0.01), line(1.0, 0.1), line(0.0, 0.001))
    steps = (0.1 + 0.02) + (0.1 + 0.01)
    assert one.round_seconds([2, 1, 0]) == pytest.approx(steps + 1.0 + 0.6 + 0.006)
    assert one.round_seconds([0]) == pytest.approx(1.0 + 0.1 + 0.001)


def test_acceptance_is_by_position_and_given_that_all_before_stood() -> None:
    seen = Acceptance()
    for accepted in [0, 1, 1, 2] * 200:
        seen.record(2, accepted)
    first, second, third = seen.chances(3)
    assert first == pytest.approx(3 / 4, abs=0.05)
    assert second == pytest.approx(1 / 3, abs=0.05)
    assert third == second
    assert seen.expected_tokens(2)[2] == pytest.approx(1 + 3 / 4 + 1 / 4, abs=0.1)


def test_a_new_request_believes_what_its_rule_has_shown() -> None:
    rules = AcceptanceByRule()
    shown = rules.of("opt")
    for _ in range(100):
        shown.record(4, 4)
    assert rules.of("opt").chances(1)[0] > 0.95
    assert rules.of("strict").chances(1)[0] == pytest.approx(0.7)
    for number in range(1000):
        rules.of(f"opt:alpha={number}")
    assert len(rules._rules) <= 64


def test_a_switch_has_a_gap_and_tries_again_for_ever() -> None:
    switch = Switch(SwitchSettings(off_below=1.0, on_above=1.1, probe_after=5, probe_rounds=2))
    assert switch.decide(1.0)
    assert not switch.decide(0.99)
    assert not switch.decide(1.05), "between the two it stays as it is"
    assert switch.decide(1.2)
    assert switch.decide(1.05), "between the two it stays as it is"
    tried = []
    for _ in range(28):
        tried.append(switch.decide(0.5))
        if tried[-1]:
            switch.judged()
    assert tried == ([False] * 5 + [True] * 2) * 4


def test_a_trial_lasts_until_drafts_were_judged() -> None:
    """A drafter that has to catch up first, chunk by chunk, is not judged by rounds in which it drafts nothing."""
    switch = Switch(SwitchSettings(probe_after=3, probe_rounds=1))
    assert [switch.decide(0.5) for _ in range(9)] == [False] * 3 + [True] * 6
    switch.judged()
    assert [switch.decide(0.5) for _ in range(4)] == [False] * 3 + [True]


def test_nothing_is_concluded_from_too_little() -> None:
    made, one = policy(ratio=0.9), sequence()
    teach(made, one, [0] * 7)
    assert made.choose([one]) == [4]
    teach(made, one, [0])
    assert made.choose([one]) == [0]


def test_a_poor_drafter_is_switched_off_probed_and_taken_back() -> None:
    made, one = policy(ratio=0.2), sequence()
    teach(made, one, [0] * 20)
    rounds = []
    for _ in range(68):
        rounds += made.choose([one])
        teach(made, one, [0] if rounds[-1] else [])
    assert rounds == [0] * 64 + [4] * 4
    assert made.choose([one]) == [0]
    teach(made, one, [4] * 200)
    assert made.choose([one]) == [4], "it pays again"


def test_a_dear_drafter_is_no_use_however_good() -> None:
    made, one = policy(ratio=1.1), sequence()
    teach(made, one, [4] * 50)
    assert made.choose([one]) == [0]


def test_what_a_request_orders_no_measurement_overrules() -> None:
    made = policy(ratio=2.0)
    ordered, reproducible, free = sequence(3), sequence(reproducible=True), sequence()
    for one in (ordered, reproducible, free):
        teach(made, one, [0] * 20)
    assert made.choose([ordered, reproducible, free]) == [3, 4, 0]
    without = policy(ratio=2.0, fallback=False)
    teach(without, free, [0] * 20)
    assert without.choose([free]) == [4]


def test_nobody_drafts_for_a_request_that_asks_for_none() -> None:
    made = policy(ratio=0.1)
    assert made.choose([sequence(0), sequence(4, rule="target_only")]) == [0, 0]


@pytest.mark.parametrize(
    ("ratio", "accepted", "expected"),
    [(0.01, [4] * 60, MAX), (0.05, [0, 1, 1, 2] * 15, 2), (0.3, [0, 0, 0, 1] * 15, 0), (0.2, [0, 1, 1, 1] * 15, 1)],
)
def test_automatic_length_is_the_best_of_all_by_the_formula(ratio: float, accepted: list[int], expected: int) -> None:
    made, one = policy(ratio), sequence(AUTO)
    assert made.choose([one]) == [4], "before the sample"
    teach(made, one, accepted)
    (chosen,) = made.choose([one])
    tokens = made._of(one).acceptance.expected_tokens(MAX)
    speed_ups = [tokens[k] / (1 + k * ratio) for k in range(MAX + 1)]
    assert chosen == expected == max(range(MAX + 1), key=speed_ups.__getitem__)


def test_requests_of_one_batch_have_lengths_of_their_own() -> None:
    made = policy(ratio=0.1)
    good, bad = sequence(AUTO, rule="opt:alpha=0.1"), sequence(AUTO, rule="strict")
    teach(made, good, [4] * 60)
    teach(made, bad, [0] * 60)
    drafted, none = made.choose([good, bad])
    assert drafted > 4
    assert none == 0


def test_a_batch_too_full_for_drafts_decodes_plainly_and_drafts_again_when_it_empties() -> None:
    """Where each token costs as much as another, scoring drafts is paid in full."""
    made = policy(ratio=0.05, slope=0.5)
    many = [sequence() for _ in range(16)]
    for one in many:
        teach(made, one, [2, 3, 4, 1] * 10)
    assert made.choose(many) == [0] * 16
    made.costs = costs(0.05, slope=0.001)
    assert made.choose(many[:1]) == [4]


def test_one_who_pays_alone_does_not_slow_a_batch_down() -> None:
    """With fixed lengths: seven that cannot gain stay off, and the one that can drafts only if the sum gains."""
    made = policy(ratio=0.5)
    good = sequence(rule="opt:alpha=0.1")
    others = [sequence(0) for _ in range(15)]
    teach(made, good, [3, 4] * 30)
    assert made.choose([good]) == [4]
    assert made.choose([good, *others]) == [0] * 16


def test_a_failed_drafter_rests_and_comes_back() -> None:
    made, one = policy(ratio=0.1), sequence(4)
    made.pause()
    assert made.paused
    assert [made.choose([one])[0] for _ in range(65)] == [0] * 64 + [4]
    assert not made.paused


def test_an_ended_request_is_forgotten() -> None:
    made, one = policy(ratio=0.1), sequence()
    teach(made, one, [1])
    made.forget(one)
    made.forget(one)
    assert not made._known


def test_a_round_in_which_the_drafter_catches_up_is_no_measure_of_its_steps() -> None:
    bench = Bench(fallback=True)
    one = bench.add(prompt(40), ordered=False, temperature=0, max_tokens=40)
    for _ in range(4):
        bench.step()
    assert one.statistics.num_target_calls == 0, "the prompt goes in five chunks"
    assert bench.loop.policy.costs.draft.weight == 0
    bench.step()
    bench.step()
    seen = bench.loop.policy.costs.draft.weight
    assert seen > 0
    bench.loop.policy.pause()
    for _ in range(6):
        bench.step()
    bench.loop.policy._pause = 0
    assert bench.draft_model.length(one.slot) < len(one.token_ids) - 2
    bench.step()
    assert bench.loop.policy.costs.draft.weight == seen, "it drafted, and caught up"
    bench.step()
    assert bench.loop.policy.costs.draft.weight > seen
