"""The benchmark of serving compares the same answers, and says what it measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.benchmarks.bench_serving import IN_PROCESS, Overhead, Run, alternate, measure

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade.serving.server import TritonServer


def test_every_way_gives_the_same_tokens_in_a_measured_time(server: TritonServer, tiny_engine_dir: Path) -> None:
    runs = measure(tiny_engine_dir, server, tokens=6, repetitions=2, draft_length=2)
    assert list(runs) == [IN_PROCESS, "gRPC", "HTTP"]
    for of_way in runs.values():
        assert len(of_way) == 2
        for run in of_way:
            assert len(run.token_ids) == 6
            assert 0 < run.first < run.whole


def test_what_a_way_adds_is_taken_within_repetitions() -> None:
    engine = [Run((1,), 0.010, 1.0), Run((1,), 0.020, 2.0), Run((1,), 0.030, 4.0)]
    slower = [Run((1,), 0.015, 1.25), Run((1,), 0.030, 2.0), Run((1,), 0.032, 8.0)]
    over = Overhead.of(slower, engine)
    assert over.speed_ratio == pytest.approx(0.8)
    assert over.speed_quartiles == pytest.approx((0.65, 0.9))
    assert over.added_first_token_ms == pytest.approx(5.0)
    assert not over.meets_goals
    assert Overhead.of(engine, engine).meets_goals


def test_ways_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.benchmarks.bench_serving.PAUSE_SECONDS", 0)
    order: list[str] = []

    def way(name: str) -> Run:
        order.append(name)
        return Run((1,), 0.1, 0.2)

    runs = alternate({name: lambda name=name: way(name) for name in "abc"}, 4)  # type: ignore[misc]
    assert {name: len(of_way) for name, of_way in runs.items()} == dict.fromkeys("abc", 4)
    rounds = ["".join(order[i : i + 3]) for i in range(0, len(order), 3)]
    assert rounds == ["bca", "cab", "abc", "bca", "cab", "abc"]
