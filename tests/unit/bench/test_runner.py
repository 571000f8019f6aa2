"""The order of the runs, and what one of them does."""

from __future__ import annotations

from collections import Counter
from threading import Barrier

import pytest

from spec_cascade.bench.runner import measure, rotated, run_once, schedule
from tests.unit.bench.written import Ticks, WrittenSubject, task


@pytest.mark.parametrize("count", [1, 2, 5])
def test_over_as_many_turns_as_there_are_items_each_stands_once_in_each_place(count: int) -> None:
    items = list(range(count))
    orders = [rotated(items, turn) for turn in range(count)]
    assert all(sorted(order) == items for order in orders)
    assert all(sorted(order[place] for order in orders) == items for place in range(count))


def test_every_repetition_runs_every_subject_once_at_every_number_of_streams_that_it_takes() -> None:
    subjects = [WrittenSubject("a"), WrittenSubject("b"), WrittenSubject("one", most_streams=1)]
    plan = [(number, streams, subject.name) for number, streams, _, subject in schedule(subjects, (1, 4), 3)]
    assert Counter(plan) == Counter(
        (number, streams, name)
        for number in range(3)
        for streams in (1, 4)
        for name in ("a", "b", "one")[: 4 - streams // 2]
    )
    assert [name for number, streams, name in plan if streams == 1] == [
        "a",
        "b",
        "one",
        "b",
        "one",
        "a",
        "one",
        "a",
        "b",
    ]


def test_one_stream_runs_a_task_after_the_other_and_the_time_ends_with_the_last_token() -> None:
    seconds, replies = run_once(WrittenSubject("a"), [task(0), task(1)], 1, Ticks())
    assert seconds == 6.0
    assert [reply.prompt for reply in replies] == [0, 1]
    assert replies[1].started == 5.0
    assert replies[1].first_token == 1.0


def test_as_many_tasks_run_at_a_time_as_there_are_streams() -> None:
    # Nobody passes the barrier before three are there.
    subject = WrittenSubject("a", meeting=Barrier(3))
    _, replies = run_once(subject, [task(i) for i in range(6)], 3, Ticks())
    assert [reply.prompt for reply in replies] == list(range(6))


def test_runs_that_warm_up_are_not_recorded() -> None:
    subjects = [WrittenSubject("a"), WrittenSubject("b")]
    told: list[str] = []
    runs = measure(subjects, [task(0)], concurrency=(1,), repetitions=2, warm_up=1, clock=Ticks(), advance=told.append)
    assert [(run.subject, run.repetition, run.position) for run in runs] == [
        ("b", 0, 0),
        ("a", 0, 1),
        ("a", 1, 0),
        ("b", 1, 1),
    ]
    assert told == [f"{name}, 1 at a time" for name in "abbaab"]
    assert all(run.tokens == 2 and run.tokens_per_second == 2 / 3 for run in runs)


def test_a_failure_of_one_stream_is_not_lost() -> None:
    class Failing(WrittenSubject):
        def reply(self, task: object, clock: object) -> object:  # type: ignore[override]
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        run_once(Failing("a"), [task(0), task(1)], 2, Ticks())  # type: ignore[arg-type]
