"""A generation in a process of its own: what it is started with, what it tells, and that it ends."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.engines.tensorrt_llm import smoke
from spec_cascade.engines.tensorrt_llm.doctor_command import register
from spec_cascade.engines.tensorrt_llm.smoke import STOCK
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade.errors import EngineError
from tests.unit.trtllm.playing import playing
from tests.unit.trtllm.smoking import JOB

PLAYING = """
import os
assert not os.environ.get("TLLM_SPEC_CASCADE"), "what a user has set for workers is not the doctor's"
assert "PMIX_RANK" not in os.environ, "nor is the MPI job that a shell was started in"
from tests.trtllm_fake.install import installed
from tests.unit.trtllm.smoking import register_pair
played = installed("s15", threaded=False)
played.__enter__()
register_pair()
"""


@pytest.fixture
def played_elsewhere(tmp_path, monkeypatch):
    """Interpreters that are started from here on play the fake from their start."""
    (tmp_path / "sitecustomize.py").write_text(PLAYING, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")


@pytest.mark.usefixtures("played_elsewhere")
def test_an_engine_runs_in_a_process_of_its_own(monkeypatch):
    # With it a worker that has the hook would not run the stock verifier when asked to.
    monkeypatch.setenv(VARIABLE, "{}")
    monkeypatch.setenv("PMIX_RANK", "0")
    stock = smoke.run_apart(replace(JOB, rules=(STOCK,)), 300)
    ours = smoke.run_apart(replace(JOB, rules=("strict",)), 300)
    assert (stock.contract, ours.contract) == (None, "trtllm-1.2.1")
    assert stock.token_ids[STOCK] == ours.token_ids["strict"]


@pytest.mark.usefixtures("played_elsewhere")
def test_what_it_says_before_it_fails_is_told():
    with pytest.raises(EngineError, match=r"ended with status 1: .*no_such_rule"):
        smoke.run_apart(replace(JOB, rules=("no_such_rule",)), 300)


STUCK = """
import subprocess, time
worker = subprocess.Popen(["sleep", "600"])
with open({place!r}, "w") as file:
    file.write(str(worker.pid))
time.sleep(600)
"""


def lives(process: int) -> bool:
    """Whether it runs: one that was killed may wait for somebody to ask how it ended."""
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())
    except OSError:
        return False


def test_a_start_that_is_stuck_is_a_failure_and_nothing_of_it_goes_on(monkeypatch, tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    place = tmp_path / "worker"
    (tmp_path / "sitecustomize.py").write_text(STUCK.format(place=str(place)), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[3]}")
    with playing("s15"):
        pair = ["--model", "target", "--drafter", "drafter"]
        result = CliRunner().invoke(app, ["doctor", *pair, "--timeout", "5"])
    assert result.exit_code == 1
    assert "failed  a pair: no generation after 5 s" in result.output
    worker = int(place.read_text(encoding="utf-8"))
    for _ in range(50):
        if not lives(worker):
            break
        time.sleep(0.1)
    assert not lives(worker)
