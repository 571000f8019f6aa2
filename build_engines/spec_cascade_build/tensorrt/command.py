"""One command while it runs: its output goes to a log file, and all its processes can be stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_cascade_build.tensorrt.plan import Step

_CHUNK = 1 << 16
# Of the end of a log: kept, and shown when a command fails.
_KEPT_BYTES, _SHOWN_LINES = 1 << 14, 15
_SECONDS_TO_END = 10
# What the tools say when something simple is wrong, which does not show from it.
_HINTS = (
    ("max_workers must be greater than 0", "trtllm-build found no GPU"),
    ("No space left on device", "the disk is full"),
    ("out of memory", "the GPU's memory did not suffice: raise tensorrt.tensor_parallel_size or lower defaults"),
)


class RunningCommand:
    """The command of a step, from its start.

    It leads a process group of its own, so that Ctrl-C in a terminal reaches only this process, which then ends the
    whole group. Its output comes through a pipe: when this process is killed, what it writes next ends it.

    Args:
        step: The step; the directory that it works in is there.
        lock: A descriptor that it inherits and so holds as long as it lives.

    Raises:
        BuildError: It cannot be started.
    """

    def __init__(self, step: Step, lock: int) -> None:
        self.step = step
        self._end = b""
        self._log: BinaryIO = step.log.open("wb", buffering=0)
        self._log.write(f"$ {shlex.join(step.command)}\n".encode())
        try:
            self._process = subprocess.Popen(
                step.command,
                cwd=step.partial,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
                bufsize=0,
            )
        except OSError as error:
            self._log.close()
            raise BuildError(f"{step.name}: {step.program[0]} cannot be started: {error.strerror}") from error

    def fileno(self) -> int:
        """Of its output: readable when there is some, and at its end."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def copy_output(self) -> bool:
        """Move what it printed to the log; False when it has closed its output."""
        chunk = os.read(self.fileno(), _CHUNK)
        self._log.write(chunk)
        self._end = (self._end + chunk)[-_KEPT_BYTES:]
        return bool(chunk)

    def finish(self) -> str | None:
        """Wait for its end, after its output has ended; what is to be told of it where it failed."""
        status = self._process.wait()
        self._close()
        if status == 0:
            return None
        return f"{self.step.name} {_ending(status)}; its log {self.step.log} ends with:\n{self._tail()}"

    def _tail(self) -> str:
        text = self._end.decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_SHOWN_LINES:]
        hints = [f"({hint})" for sign, hint in _HINTS if sign in text]
        return "\n".join([f"  {line}" for line in lines or ["(nothing)"]] + hints)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def wait_a_little(self) -> None:
        """Until it has ended, at most some seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)

    def bury(self) -> None:
        """Kill what is left of it."""
        self.signal(signal.SIGKILL)
        self._process.wait()
        self._close()

    def _close(self) -> None:
        self._log.close()
        if self._process.stdout is not None:
            self._process.stdout.close()


def stop(commands: Iterable[RunningCommand]) -> None:
    """End commands: they are asked to, and killed if they do not or if one more Ctrl-C comes."""
    running = list(commands)
    try:
        for command in running:
            command.signal(signal.SIGTERM)
        for command in running:
            command.wait_a_little()
    finally:
        for command in running:
            command.bury()


def _ending(status: int) -> str:
    if status >= 0:
        return f"ended with exit status {status}"
    name = signal.Signals(-status).name
    why = ", most often for want of memory" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"
