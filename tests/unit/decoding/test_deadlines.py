"""Deadlines on a clock that only the test moves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from spec_cascade.decoding.request import FinishReason
from tests.unit.decoding.bench import CHUNK, Bench, drained, prompt, tokens


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in ("sequence", "scheduler"):
        monkeypatch.setattr(f"spec_cascade.decoding.{module}.time", SimpleNamespace(monotonic=made.monotonic))
    return made


def test_a_deadline_ends_a_running_request_before_the_round_after_it(clock: Clock) -> None:
    bench = Bench()
    sequence = bench.add(prompt(4), max_tokens=60, deadline=clock.now + 1)
    other = bench.add(prompt(4, 1), max_tokens=60)
    for _ in range(3):
        bench.step()
    clock.now += 0.999
    bench.step()
    had = sequence.num_emitted
    assert had >= 4
    clock.now += 0.001
    bench.step()
    outputs = drained(sequence)
    assert outputs[-1].finish_reason is FinishReason.TIMEOUT
    assert outputs[-1].token_ids == ()
    assert outputs[-1].statistics is not None
    assert outputs[-1].statistics.num_output_tokens == len(tokens(outputs)) == had
    assert other.slot == 0
    bench.run()
    assert bench.loop.statistics().num_finished == {"timeout": 1, "length": 1}


def test_a_deadline_ends_a_request_in_its_prompt(clock: Clock) -> None:
    bench = Bench()
    sequence = bench.add(prompt(5 * CHUNK), max_tokens=60, deadline=clock.now + 1)
    for _ in range(2):
        bench.step()
    assert bench.target.length(0) == 2 * CHUNK
    clock.now += 1
    bench.step()
    assert drained(sequence)[-1].finish_reason is FinishReason.TIMEOUT
    assert bench.target.length(0) == 0


def test_a_deadline_ends_a_waiting_request_and_lets_the_next_one_in(clock: Clock) -> None:
    bench = Bench(batch=1)
    bench.add(prompt(4), max_tokens=8)
    late = bench.add(prompt(4, 1), max_tokens=8, deadline=clock.now + 1)
    patient = bench.add(prompt(4, 2), max_tokens=8)
    bench.step()
    clock.now += 2
    bench.step()
    assert [o.finish_reason for o in drained(late)] == [FinishReason.TIMEOUT]
    assert late.num_emitted == 0
    bench.run()
    assert patient.num_emitted == 8


def test_the_wait_for_a_slot_is_counted_whether_or_not_it_comes(clock: Clock) -> None:
    bench = Bench(batch=1)
    first = bench.add(prompt(4), max_tokens=8)
    bench.step()
    late = bench.add(prompt(4, 1), max_tokens=8, deadline=clock.now + 2)
    patient = bench.add(prompt(4, 2), max_tokens=8)
    clock.now += 3
    bench.run()
    clock.now += 1
    assert [s.statistics.queue_seconds for s in (first, late, patient)] == [0, 3, 3]


def test_a_request_that_finishes_in_time_is_not_late(clock: Clock) -> None:
    bench = Bench()
    sequence = bench.add(prompt(4), max_tokens=1, deadline=clock.now + 1)
    bench.step()
    clock.now += 5
    bench.step()
    assert [o.finish_reason for o in drained(sequence)] == [FinishReason.LENGTH]


def test_what_is_cancelled_and_late_counts_as_cancelled(clock: Clock) -> None:
    bench = Bench()
    sequence = bench.add(prompt(4), max_tokens=60, deadline=clock.now + 1)
    bench.step()
    clock.now += 5
    sequence.cancelled.set()
    bench.step()
    assert drained(sequence)[-1].finish_reason is FinishReason.CANCELLED
