"""Running a plan: what is there is skipped, what is independent runs side by side, what is whole appears at once.

A step works in `build/partial/STEP/out`. When its command has ended well, that directory gets a stamp and is renamed
to where its output belongs. So a kill at any moment costs the steps that were running, and nothing else; and a
directory with a valid stamp is a finished one.
"""

from __future__ import annotations

import os
import selectors
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import FILE_NAME as MANIFEST
from spec_cascade.engines.manifest import FileEntry
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.command import RunningCommand, stop
from spec_cascade_build.tensorrt.interrupts import Interrupts
from spec_cascade_build.tensorrt.lock import locked
from spec_cascade_build.tensorrt.read_back import EngineFacts, check_checkpoint, read_engines
from spec_cascade_build.tensorrt.stamp import FILE_NAME as STAMP
from spec_cascade_build.tensorrt.stamp import Stamp
from spec_cascade_build.tensorrt.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rich.console import Console

    from spec_cascade_build.tensorrt.plan import Plan, Step
    from spec_cascade_build.tensorrt.section import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledPair:
    """What a build came to: all that a manifest needs.

    Attributes:
        ran: Names of the steps that ran.
        engines: What each engine's `config.json` says, by role.
        files: Content of the engines' files, by POSIX path relative to the engine directory.
        versions: Of what built them, and the GPU that they are for.
        key: Hash of everything that determined them.
    """

    ran: tuple[str, ...]
    engines: dict[Role, EngineFacts]
    files: dict[str, FileEntry]
    versions: dict[str, str]
    key: str

    @property
    def up_to_date(self) -> bool:
        """Whether all was there already."""
        return not self.ran


@contextmanager
def run_plan(
    plan: Plan, console: Console, *, force: bool = False, fetch: Callable[[Step], object] | None = None
) -> Iterator[CompiledPair]:
    """Run what is to be done of a plan, and read both engines back; the directory is locked until the block ends.

    Args:
        plan: The plan.
        console: Told what starts and ends.
        force: Run every step.
        fetch: Called with each conversion that will run, before any command does: its checkpoint is there afterwards.

    Raises:
        BuildError: Something that is needed is missing here, the directory holds something else or is being built, or
            a command failed: the steps beside it are let end first.
        EngineConfigError: The engines are there, and are not what a decoder can use.
    """
    plan.tools.check()
    with locked(plan.output) as lock:
        states = survey(plan, force=force)
        to_do = [step for step in plan.steps if states[step.name].kind == "to do"]
        for step in plan.steps:
            if step not in to_do:
                _tell(console, f"{step.name}: {states[step.name].kind}")
        for step in to_do:
            if fetch is not None and step.needs is None:
                fetch(step)
        if to_do:
            # What it vouches for is about to change.
            (plan.output / MANIFEST).unlink(missing_ok=True)
            interrupts = Interrupts()
            with interrupts.as_exceptions():
                _Crew(plan, lock, console, interrupts).run(to_do)
        directories = {role: plan.output / role for role in plan.expected}
        engines = read_engines(directories, plan.expected)
        yield CompiledPair(
            ran=tuple(step.name for step in to_do),
            engines=engines,
            files=_files(directories),
            versions=plan.versions,
            key=plan.key,
        )


class _Crew:
    """The commands that run at the moment; one thread waits for all of them."""

    def __init__(self, plan: Plan, lock: int, console: Console, interrupts: Interrupts) -> None:
        self._plan = plan
        self._lock = lock
        self._console = console
        self._interrupts = interrupts
        self._selector = selectors.DefaultSelector()
        self._running: dict[str, tuple[RunningCommand, float]] = {}
        self._waiting: list[Step] = []
        self._failures: list[BuildError] = []

    def run(self, steps: list[Step]) -> None:
        self._waiting = list(steps)
        with self._selector:
            try:
                self._start_ready()
                while self._running:
                    for key, _events in self._selector.select():
                        if not key.data.copy_output():
                            self._end(key.data)
                    self._start_ready()
            finally:
                stop(command for command, _start in self._running.values())
        if self._failures:
            raise self._failures[0]

    def _start_ready(self) -> None:
        """Fill the places that are free with steps whose input is there; none after a failure."""
        while not self._failures and len(self._running) < self._plan.jobs:
            pending = {step.name for step in self._waiting} | self._running.keys()
            step = next((step for step in self._waiting if step.needs not in pending), None)
            if step is None:
                return
            self._waiting.remove(step)
            self._begin(step)

    def _begin(self, step: Step) -> None:
        _clear(step.partial)
        step.log.parent.mkdir(parents=True, exist_ok=True)
        try:
            if step.needs is not None:
                check_checkpoint(self._plan.output_of(step.needs), self._plan.expected[step.role])
            with self._interrupts.held_back():
                command = RunningCommand(step, self._lock)
                self._running[step.name] = command, time.monotonic()
        except BuildError as error:
            self._fail(error)
            return
        self._selector.register(command, selectors.EVENT_READ, command)
        _tell(self._console, f"{step.name}: running, log in {step.log}")

    def _end(self, command: RunningCommand) -> None:
        self._selector.unregister(command)
        step = command.step
        failure = command.finish()
        _command, start = self._running.pop(step.name)
        try:
            if failure is not None:
                raise BuildError(failure)
            _keep(step)
        except BuildError as error:
            self._fail(error)
        except OSError as error:
            self._fail(BuildError(f"{step.name} ended well, and its output cannot be kept: {error}"))
        else:
            _tell(self._console, f"{step.name}: done in {time.monotonic() - start:.0f} s")

    def _fail(self, error: BuildError) -> None:
        self._failures.append(error)
        if self._running or len(self._failures) > 1:
            # The first one is raised when the steps beside it have ended, which may take an hour.
            _tell(self._console, str(error))


def _clear(partial: Path) -> None:
    """An empty place to work in: what a killed build left is worth nothing."""
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)


def _keep(step: Step) -> None:
    """Put what a command wrote in its place, whole."""
    out = step.partial / "out"
    missing = [name for name in step.produces if not (out / name).is_file()]
    if missing:
        raise BuildError(f"{step.name} ended with exit status 0 and wrote no {missing[0]}; its log is {step.log}")
    Stamp.of(out, step.key, step.identity, step.command).write(out)
    step.output.parent.mkdir(parents=True, exist_ok=True)
    if step.output.exists():
        step.output.rename(step.partial / "old")
    out.rename(step.output)
    written = step.partial / "timing.cache"
    if step.timing_cache is not None and written.is_file():
        _replace(written, step.timing_cache)
    shutil.rmtree(step.partial)


def _replace(source: Path, target: Path) -> None:
    """Copy a file over another, also of another file system, so that a reader sees the old one or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.copyfile(source, new)
    new.replace(target)


def _files(directories: dict[Role, Path]) -> dict[str, FileEntry]:
    """The engines' files, as they were hashed when they were written."""
    found: dict[str, FileEntry] = {}
    for role, directory in directories.items():
        stamp = Stamp.read(directory)
        if stamp is not None:
            found |= {f"{role}/{name}": file.entry for name, file in stamp.files.items()}
            found[f"{role}/{STAMP}"] = FileEntry.of(directory / STAMP)
    return found


def _tell(console: Console, text: str) -> None:
    with suppress(OSError):
        console.print(text, highlight=False, soft_wrap=True, markup=False)
