"""One command while it runs: its output goes to a log file, and all its processes can be stopped."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, BinaryIO

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from spec_cascade_build.tensorrt.plan import Step

_CHUNK = 1 << 16
# Of the end of a log: kept, and shown when a command fails.
_KEPT_BYTES, _SHOWN_LINES = 1 << 14, 15
_SECONDS_TO_END = 10
# What the tools say when something simple is wrong, which does not show from it.
_HINTS = (
    ("max_workers must be greater than 0", "trtllm-build found no GPU"),
    ("No space left on device", "the disk is full"),
    ("out of memory", "the GPU's memory did not suffice: raise tensor_parallel_size or lower defaults"),
)


class LoggedCommand:
    """A command, from its start.

    It leads a process group of its own, so that Ctrl-C in a terminal reaches only this process, which then ends the
    whole group. Its output comes through a pipe: when this process is killed, what it writes next ends it.

    Args:
        name: What to call it.
        command: The program and its arguments.
        log: The file that takes its output.
        directory: Where it works.
        environment: Variables beside this process's own.
        lock: A descriptor that it inherits and so holds as long as it lives.

    Raises:
        BuildError: It cannot be started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        directory: Path,
        environment: Mapping[str, str],
        lock: int | None = None,
    ) -> None:
        self._name, self._path = name, log
        self._end = b""
        self._buried = False
        self._held = ExitStack()
        self._log: BinaryIO = self._held.enter_context(log.open("wb", buffering=0))
        self._log.write(f"$ {shlex.join(command)}\n".encode())
        try:
            self._process = subprocess.Popen(
                command,
                cwd=directory,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=() if lock is None else (lock,),
                bufsize=0,
            )
        except OSError as error:
            self._held.close()
            raise BuildError(f"{name}: {command[0]} cannot be started: {error.strerror}") from error
        self._watch()

    def _watch(self) -> None:
        """Look at its output and at the process itself: a child that it leaves behind may keep the output open."""
        assert self._process.stdout is not None
        self._output: int = self._held.enter_context(self._process.stdout).fileno()
        os.set_blocking(self._output, False)
        self._events = self._held.enter_context(select.epoll())
        self._events.register(self._output, select.EPOLLIN)
        # A kernel before 5.3 cannot tell: such an end is noticed there when the output ends.
        with suppress(OSError):
            process = os.pidfd_open(self._process.pid)
            self._held.callback(os.close, process)
            self._events.register(process, select.EPOLLIN)

    def fileno(self) -> int:
        """Readable when it has printed something, and at its end."""
        return self._events.fileno()

    def copy_output(self) -> bool:
        """Move what it printed to the log; False when it has ended, or closed its output."""
        ended = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        if ended:
            # Nobody waits for what it left behind, which would print for ever.
            self.signal(signal.SIGKILL)
        try:
            chunk = os.read(self._output, _CHUNK)
        except BlockingIOError:
            return not ended
        self._log.write(chunk)
        self._end = (self._end + chunk)[-_KEPT_BYTES:]
        return bool(chunk)

    def run_out(self) -> str | None:
        """Log what it prints to its end; what is to be told of it where it failed."""
        more = True
        while more:
            self._events.poll()
            more = self.copy_output()
        return self.finish()

    def finish(self) -> str | None:
        """Wait for its end, and kill what it left behind; what is to be told of it where it failed."""
        # Left a zombie until its group is dead: so the group's number stays its own.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        status = self.bury()
        if status == 0:
            return None
        return f"{self._name} {_ending(status)}; its log {self._path} ends with:\n{self._tail()}"

    def _tail(self) -> str:
        text = self._end.decode("utf-8", "replace")
        lines = [line.rstrip() for line in text.splitlines() if line.strip()][-_SHOWN_LINES:]
        hints = [f"({hint})" for sign, hint in _HINTS if sign in text]
        return "\n".join([f"  {line}" for line in lines or ["(nothing)"]] + hints)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        if not self._buried:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait_a_little(self) -> None:
        """Until it has ended, at most some seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_SECONDS_TO_END)

    def bury(self) -> int:
        """Kill what is left of it, and return its status."""
        self.signal(signal.SIGKILL)
        status = self._process.wait()
        self._buried = True
        self._held.close()
        return status


class RunningCommand(LoggedCommand):
    """The command of a step, in the directory that the step works in."""

    def __init__(self, step: Step, lock: int) -> None:
        super().__init__(step.name, step.command, step.log, step.partial, {}, lock)
        self.step = step


def stop(commands: Iterable[LoggedCommand]) -> None:
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
