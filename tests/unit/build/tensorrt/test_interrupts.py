"""Signals end a build between two steps of its own, never between a command's start and its being known."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade_build.tensorrt import run
from spec_cascade_build.tensorrt.command import RunningCommand
from spec_cascade_build.tensorrt.interrupts import Interrupts

if TYPE_CHECKING:
    from tests.unit.build.tensorrt.stage import Stage


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_an_exception_and_the_old_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Interrupts().as_exceptions():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_signal_that_is_held_back_comes_at_the_end_and_once() -> None:
    interrupts = Interrupts()
    reached = []

    def work() -> None:
        with interrupts.held_back():
            signal.raise_signal(signal.SIGTERM)
            reached.append("the end")

    with interrupts.as_exceptions():
        with pytest.raises(KeyboardInterrupt):
            work()
        assert reached == ["the end"]
        with interrupts.held_back():
            pass


def test_a_signal_that_was_ignored_stays_so() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts().as_exceptions():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_command_whose_start_is_interrupted_is_ended(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    class InterruptedCommand(RunningCommand):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            started.append(self._process.pid)
            signal.raise_signal(signal.SIGTERM)

    started: list[int] = []
    stage.let_wait("convert-drafter")
    monkeypatch.setattr(run, "RunningCommand", InterruptedCommand)
    with pytest.raises(KeyboardInterrupt):
        stage.build()
    (pid,) = started
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
