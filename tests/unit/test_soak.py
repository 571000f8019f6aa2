"""The soaks themselves: a few seconds of the engine's pass, and none passes when a promise is broken."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade_client.activity import Activity
from spec_cascade_client.scrape import Scrape
from tests.soak import __main__ as soak
from tests.soak.clients import Tally
from tests.soak.rig import Known, Rig, rig
from tests.soak.server import ServerSample, broken_promises
from tests.soak.verdict import Sample, growth_mib

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """A soak sets how its process computes and logs; the tests after these are in it too."""
    threads, level = torch.get_num_threads(), logging.getLogger("spec_cascade").level
    yield
    torch.set_num_threads(threads)
    logging.getLogger("spec_cascade").setLevel(level)


def run(seconds: float, path: Path) -> int:
    return soak.main(["--minutes", str(seconds / 60), "--threads", "1", "--json", str(path)])


def test_a_short_soak_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Allocators and caches still fill in the first seconds; the real soak keeps its bound.
    monkeypatch.setattr("tests.soak.verdict.GROWTH_LIMIT_MIB", 64.0)
    assert run(5, tmp_path / "soak.json") == 0
    figures = json.loads((tmp_path / "soak.json").read_text())
    counts = figures["counts"]
    assert figures["broken"] == []
    assert sum(figures["num_finished"].values()) == counts["submitted"] >= 12
    assert counts["length"] > 0
    assert counts["cancelled"] > 0
    assert figures["num_drafter_failures"] > 0
    assert len(figures["samples"]) == 8


def test_a_soak_in_which_a_client_gets_wrong_tokens_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong() -> Rig:
        right = rig()
        return replace(right, known=[Known(k.prompt_ids, tuple(t + 1 for t in k.output_ids)) for k in right.known])

    monkeypatch.setattr(soak, "rig", wrong)
    assert run(1, tmp_path / "soak.json") == 1
    assert any("are not the target's" in what for what in json.loads((tmp_path / "soak.json").read_text())["broken"])


@pytest.mark.parametrize(("per_sample", "grows"), [(0.0, 0.0), (1.0, 50.0)])
def test_memory_that_grows_in_the_second_half_is_seen(per_sample: float, grows: float) -> None:
    zero = Sample(seconds=0, submitted=0, refused=0, tokens=0, failures=0, rss_mib=0, running=0, waiting=0)
    assert growth_mib([replace(zero, rss_mib=400 + per_sample * i) for i in range(100)]) == grows


ENDED = {"length": 5, "timeout": 2, "cancelled": 3}


@pytest.mark.parametrize(
    ("ended", "running", "per_sample", "broken"),
    [
        ({}, 0, (0.0, 0.0, 0), None),
        ({"length": 7, "cancelled": 1}, 0, (0.0, 0.0, 0), None),  # left too late
        ({"length": 4}, 0, (0.0, 0.0, 0), "7 requests ran to their length or were cancelled"),
        ({"timeout": 1}, 0, (0.0, 0.0, 0), "1 requests timed out, 2 clients were told so"),
        ({"error": 1}, 0, (0.0, 0.0, 0), "1 requests failed"),
        ({}, 1, (0.0, 0.0, 0), "(1, 0, 0) requests run"),
        ({}, 0, (1.0, 0.0, 0), "in the second half the models grew by +50.0 MiB (limit 16)"),
        ({}, 0, (0.0, 1.0, 0), "in the second half the models grew by +0.0 MiB (limit 16), tritonserver by +50.0 MiB"),
        ({}, 0, (0.0, 1.0, 1024), None),  # 51 200 refusals at 6 KiB
    ],
)
def test_a_soak_of_a_server_that_breaks_a_promise_fails(
    ended: dict[str, int], running: int, per_sample: tuple[float, float, int], broken: str | None
) -> None:
    tally = Tally()
    tally.add(length=5, timeout=2, left=3)
    last = Activity.of(Scrape.parse(f"spec_cascade_requests_running {running}"))
    models, server, refused = per_sample
    samples = [
        ServerSample(
            seconds=i,
            submitted=i,
            refused=i * refused,
            tokens=i,
            failures=0,
            rss_mib=400 + i * models,
            running=4,
            waiting=0,
            server_mib=60 + i * server,
        )
        for i in range(100)
    ]
    found = broken_promises(tally, ENDED | ended, last, samples)
    assert len(found) == (broken is not None)
    assert not found or broken is None or found[0].startswith(broken)
