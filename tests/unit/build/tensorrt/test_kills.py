"""A build that is interrupted stops its commands; one that is killed costs the steps that were running."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.lock import MARKER
from spec_cascade_build.tensorrt.survey import describe
from tests.unit.build.tensorrt.stage import STEPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.build.tensorrt.stage import Events, Stage

ROOT = Path(__file__).parents[4]
BUILD = """
import sys
from pathlib import Path
from tests.unit.build.tensorrt.stage import Stage
Stage(Path(sys.argv[1])).build(jobs=2)
"""


@pytest.fixture
def builder(stage: Stage, events: Events) -> Iterator[subprocess.Popen[str]]:
    """Another process, whose build has both conversions behind it and waits in the middle of `build-target`."""
    stage.let_wait("build-target")
    command = [sys.executable, "-c", BUILD, str(stage.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while events.next() != "build-target started":
            pass
        yield process


def pid_of(stage: Stage, step: str) -> int:
    """The last process that ran a step."""
    return int(next(call["pid"] for call in reversed(stage.calls()) if call["step"] == step))


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for_lock(stage: Stage) -> None:
    """Until no process holds the engine directory's lock."""
    descriptor = os.open(stage.output / MARKER, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_stops_its_commands(
    stage: Stage, builder: subprocess.Popen[str], number: signal.Signals
) -> None:
    builder.send_signal(number)
    assert builder.wait() != 0
    assert not is_there(pid_of(stage, "build-target"))
    assert not (stage.output / "target").exists()
    stage.forget("build-target", "wait")
    assert "build-target" in stage.build().ran


def test_a_second_interrupt_ends_a_command_that_does_not_stop(stage: Stage, events: Events) -> None:
    stage.wish("convert-drafter", "stubborn")
    stage.let_wait("convert-drafter")
    command = [sys.executable, "-c", BUILD.replace("jobs=2", "jobs=1"), str(stage.root)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert events.next() == "convert-drafter started"
        process.send_signal(signal.SIGINT)
        assert events.next() == "convert-drafter asked to end"
        assert is_there(pid_of(stage, "convert-drafter"))
        process.send_signal(signal.SIGINT)
    assert process.returncode != 0
    assert not is_there(pid_of(stage, "convert-drafter"))


@pytest.mark.parametrize("orphan", ["ends its work", "is killed too"])
def test_after_a_kill_only_what_was_running_is_done_again(
    stage: Stage, events: Events, builder: subprocess.Popen[str], orphan: str
) -> None:
    builder.kill()
    builder.wait()
    # Its command is still writing: nobody may write beside it.
    with pytest.raises(BuildError, match=f"is being built by process {builder.pid}, or a command that it started"):
        stage.build()
    if orphan == "is killed too":
        os.kill(pid_of(stage, "build-target"), signal.SIGKILL)
        stage.forget("build-target", "wait")
    else:
        stage.let_go("build-target")
    wait_for_lock(stage)

    partial = stage.output / "build" / "partial" / "build-target" / "out"
    assert (partial / "rank0.engine").exists() is (orphan == "ends its work")
    assert (partial / "config.json").exists()
    assert not (stage.output / "target").exists()
    text = describe(stage.plan())
    assert "build-target: to do (not there yet)" in text
    assert "convert-target: up to date" in text

    known = len(stage.calls())
    stage.build()
    again = {call["step"] for call in stage.calls()[known:]}
    # The drafter's engine was built beside it: whether it was whole when the kill came is not ours to say.
    assert "build-target" in again
    assert again <= {"build-drafter", "build-target"}
    assert stage.build().up_to_date
    assert list((stage.output / "build" / "partial").iterdir()) == []


def test_two_builds_of_one_directory_do_not_meet(stage: Stage, builder: subprocess.Popen[str]) -> None:
    with pytest.raises(BuildError, match=f"is being built by process {builder.pid}"):
        stage.build()
    stage.let_go("build-target")
    assert builder.wait() == 0, builder.stderr
    assert sorted(stage.started()) == sorted(STEPS)
    assert stage.build().up_to_date
