"""A command while it runs: its end is noticed whoever keeps its output, and nothing of it outlives it."""

from __future__ import annotations

import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.command import LoggedCommand, stop

if TYPE_CHECKING:
    from pathlib import Path


def started(tmp_path: Path, script: str, **environment: str) -> LoggedCommand:
    """A shell that runs a script in `tmp_path`."""
    return LoggedCommand("a step", ("sh", "-c", script), tmp_path / "log", tmp_path, environment)


def test_its_output_is_logged_and_its_status_is_heeded(tmp_path: Path) -> None:
    assert started(tmp_path, "echo $GREETING; pwd", GREETING="hello").run_out() is None
    assert (tmp_path / "log").read_text() == f"$ sh -c 'echo $GREETING; pwd'\nhello\n{tmp_path}\n"
    told = started(tmp_path, "echo one; echo two >&2; exit 3").run_out()
    assert told == f"a step ended with exit status 3; its log {tmp_path / 'log'} ends with:\n  one\n  two"


@pytest.mark.parametrize(("end", "told"), [("kill -9 $$", "was ended by SIGKILL"), ("exit 3", "exit status 3")])
def test_its_end_is_noticed_though_a_child_keeps_its_output(tmp_path: Path, end: str, told: str) -> None:
    script = f"(sleep 20; touch slept) & echo $! > child; echo last words; {end}"
    failure = started(tmp_path, script).run_out()
    assert failure is not None
    assert told in failure
    assert failure.endswith("\n  last words")
    wait_for_end(int((tmp_path / "child").read_text()))
    assert not (tmp_path / "slept").exists()


def test_a_child_that_never_stops_printing_ends_with_it(tmp_path: Path) -> None:
    failure = started(tmp_path, "yes & echo $! > child; exit 3").run_out()
    assert failure is not None
    wait_for_end(int((tmp_path / "child").read_text()))


def test_what_it_printed_at_once_is_logged_whole(tmp_path: Path) -> None:
    lines = "".join(f"{number}\n" for number in range(1, 100_001))
    assert started(tmp_path, "seq 100000").run_out() is None
    assert (tmp_path / "log").read_text().split("\n", 1)[1] == lines


def test_one_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    script = "import os, time; os.close(1); os.close(2); time.sleep(0.2); os._exit(3)"
    command = LoggedCommand("a step", (sys.executable, "-c", script), tmp_path / "log", tmp_path, {})
    assert command.run_out() == f"a step ended with exit status 3; its log {tmp_path / 'log'} ends with:\n  (nothing)"


def test_a_finished_one_is_not_stopped_again(tmp_path: Path) -> None:
    command = started(tmp_path, "true")
    assert command.run_out() is None
    # Its number may be another process's by now.
    stop([command])
    assert (tmp_path / "log").exists()


def test_one_that_cannot_be_started_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="a step: nothing-of-that-name cannot be started: No such file or directory"):
        LoggedCommand("a step", ("nothing-of-that-name",), tmp_path / "log", tmp_path, {})


def wait_for_end(pid: int) -> None:
    """Until a process that is not ours has ended."""
    with suppress(ProcessLookupError):
        process = os.pidfd_open(pid)
        select.select([process], [], [])
        os.close(process)
