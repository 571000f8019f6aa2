"""Medians, ratios and shares, with numbers worked by hand."""

from __future__ import annotations

import pytest

from spec_cascade.bench.comparisons import Lineup, compare
from spec_cascade.bench.samples import Reply
from spec_cascade.bench.summary import Spread, summarise
from tests.unit.bench.written import run_of

SAME = ((1, 2), (3, 4))
OTHER = ((1, 2), (3, 5))


def test_the_wait_for_a_chunk_is_shared_out_among_its_tokens() -> None:
    reply = Reply(prompt=0, token_ids=(1,) * 6, started=1.0, chunks=((3.0, 2), (5.0, 1), (6.0, 3)), target_calls=3)
    assert reply.first_token == 2.0
    assert reply.token_gaps == pytest.approx([2.0, 1 / 3, 1 / 3, 1 / 3])


def test_ratios_are_within_a_repetition_before_their_median_is_taken() -> None:
    # The machine gets slower by the repetition; the rule takes half of the time in each, but for the last.
    runs = []
    for number, (base, rule) in enumerate([(1.0, 0.5), (10.0, 5.0), (100.0, 200.0)]):
        runs.append(run_of("target only", number, base, outputs=SAME))
        runs.append(run_of("rule", number, rule, outputs=OTHER))
    base_line, rule_line = summarise(runs, "target only", ["target only", "rule"])
    assert base_line.ratio == Spread(1.0, 1.0, 1.0)
    assert rule_line.ratio == Spread(2.0, 0.5, 2.0)
    assert rule_line.tokens_per_second == Spread(0.8, 0.02, 8.0)
    assert (base_line.same_tokens, rule_line.same_tokens) == (1.0, 0.5)
    assert rule_line.tokens_per_target_call == 1.0
    assert rule_line.acceptance is None
    assert (rule_line.first_token, rule_line.token_gap) == (2.5, 2.5)


def test_lines_stand_by_streams_and_then_in_the_order_of_the_subjects() -> None:
    runs = [run_of(name, 0, 1.0, streams=n, outputs=SAME) for n in (2, 1) for name in ("b", "a")]
    assert [(line.streams, line.subject) for line in summarise(runs, "a", ["a", "b"])] == [
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (2, "b"),
    ]


def test_a_subject_without_its_baseline_has_no_ratio() -> None:
    (line,) = summarise([run_of("b", 0, 1.0, outputs=SAME)], "a", ["a", "b"])
    assert (line.ratio, line.same_tokens) == (None, None)


def test_a_single_token_has_no_gap() -> None:
    (line,) = summarise([run_of("a", 0, 1.0, outputs=((1,),))], "a", ["a"])
    assert line.token_gap is None


LINEUP = Lineup(
    target_only="target only",
    rules=("r1", "r2"),
    no_drafter="no drafter",
    generate=("generate bfloat16", "generate float32"),
    assisted=("assisted", "assisted K=4"),
)
SECONDS = {
    "target only": 6.0,
    "no drafter": 6.0,
    "r1": 3.0,
    "r2": 2.0,
    "generate bfloat16": 9.0,
    "generate float32": 12.0,
    "assisted": 8.0,
    "assisted K=4": 4.0,
}


def test_each_is_compared_with_the_better_of_its_peers() -> None:
    runs = [run_of(name, 0, seconds, outputs=SAME) for name, seconds in SECONDS.items()]
    runs += [run_of(name, 0, 4.0, streams=8, outputs=SAME) for name in ("target only", "no drafter", "r1")]
    found = {str(comparison): comparison.ratio.median for comparison in compare(runs, LINEUP)}
    assert found == pytest.approx(
        {
            "target only over generate bfloat16": 1.5,
            "r1 over assisted K=4": 4 / 3,
            "r2 over assisted K=4": 2.0,
            "target only over no drafter": 1.0,
            "target only (8 at a time) over no drafter (8 at a time)": 1.0,
            "target only (8 at a time) over target only": 1.5,
            "r1 (8 at a time) over r1": 0.75,
        }
    )


def test_what_was_not_measured_is_not_compared() -> None:
    runs = [run_of("target only", 0, 1.0, outputs=SAME)]
    assert compare(runs, Lineup(target_only="target only")) == []
