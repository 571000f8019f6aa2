"""The commands of a build, run one after the other; what they finish, and what they printed, outlasts a failure.

ENGINE_DIR.building/
    logs/NAME.log
    partial/NAME/   where a quantisation writes
    target/         a quantised checkpoint that is finished, with its stamp; likewise drafter/
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_cascade_build.digest import digest
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step
from spec_cascade_build.tensorrt.command import LoggedCommand, stop
from spec_cascade_build.tensorrt.interrupts import Interrupts
from spec_cascade_build.tensorrt.lock import locked
from spec_cascade_build.tensorrt.stamp import FILE_NAME as STAMP
from spec_cascade_build.tensorrt.stamp import Stamp
from spec_cascade_build.tensorrt_llm.plan import work_directory

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.console import Console

    from spec_cascade_build.tensorrt_llm.plan import Command
    from spec_cascade_build.tensorrt_llm.section import Role


class Work:
    """Runs commands and keeps what they finished; made by `working`."""

    def __init__(self, directory: Path, lock: int, interrupts: Interrupts, console: Console) -> None:
        self._directory = directory
        self._lock = lock
        self._interrupts = interrupts
        self._console = console

    def run(self, command: Command) -> None:
        """Run a command to its end.

        Raises:
            BuildError: It cannot be started, or ends with another status than 0; its log is named, and its end shown.
        """
        log = self._directory / "logs" / f"{command.name}.log"
        log.parent.mkdir(exist_ok=True)
        self._console.print(str(command), markup=False, highlight=False, soft_wrap=True, style="dim")
        started: list[LoggedCommand] = []
        with step(self._console, command.title):
            try:
                with self._interrupts.held_back():
                    started.append(
                        LoggedCommand(command.name, command.arguments, log, Path.cwd(), command.environment, self._lock)
                    )
                failure = started[0].run_out()
            finally:
                stop(started)
        if failure is not None:
            raise BuildError(failure)

    def quantise(self, role: Role, command: Command, identity: dict[str, Any], output: Path) -> None:
        """Put a quantised checkpoint into a directory; one that an earlier try has finished is not made again.

        Args:
            role: Whose.
            command: What makes it, in `partial/NAME`.
            identity: All that determines it.
            output: A directory that is made.

        Raises:
            BuildError: The command fails, or writes no checkpoint.
        """
        kept, partial = self._directory / role, self._directory / "partial" / command.name
        key = digest(identity)
        stamp = Stamp.read(kept)
        if stamp is not None and stamp.key == key and stamp.trouble(kept) is None:
            self._console.print(f"{command.name}: done before", highlight=False)
        else:
            for old in (kept, partial):
                shutil.rmtree(old, ignore_errors=True)
            partial.parent.mkdir(exist_ok=True)
            self.run(command)
            if not (partial / "config.json").is_file():
                raise BuildError(f"{command.name} ended with exit status 0 and wrote no config.json")
            with step(self._console, "hashing"):
                Stamp.of(partial, key, identity, command.arguments).write(partial)
            partial.rename(kept)
        shutil.copytree(kept, output, ignore=shutil.ignore_patterns(STAMP), copy_function=_link)

    def copy_logs(self, commands: Iterable[Command], output: Path) -> None:
        """Put what commands printed into a directory that is made."""
        output.mkdir()
        for command in commands:
            shutil.copy(self._directory / "logs" / f"{command.name}.log", output)

    def forget(self) -> None:
        """Remove the checkpoints that earlier tries finished."""
        for role in ("target", "drafter"):
            shutil.rmtree(self._directory / role, ignore_errors=True)

    def clear(self) -> None:
        """Remove all of it: the engine directory has what is worth keeping."""
        shutil.rmtree(self._directory)


@contextmanager
def working(output: Path, console: Console) -> Iterator[Work]:
    """The place where an engine directory's commands work, locked; Ctrl-C and SIGTERM end commands and the block.

    Args:
        output: The engine directory.
        console: Shows what runs, and since when.

    Raises:
        BuildError: Another build of it is running, or a command of one that was killed.
    """
    interrupts, directory = Interrupts(), work_directory(output)
    with locked(directory) as lock, interrupts.as_exceptions():
        try:
            yield Work(directory, lock, interrupts, console)
        finally:
            if not (directory / "logs").exists():
                # No command was run: there is nothing to keep.
                shutil.rmtree(directory, ignore_errors=True)


def _link(source: str, target: str) -> None:
    """A second name for a file, which may have 100 GB; a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
