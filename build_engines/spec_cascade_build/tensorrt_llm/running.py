"""Commands of a build, run one after the other, each with a log of its own."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from spec_cascade_build.tensorrt_llm.plan import Command

_TAIL = 12


def run(command: Command, directory: Path, console: Console) -> None:
    """Run a command to its end.

    Args:
        command: What to run.
        directory: The engine directory; the command's log goes there.
        console: Shows what runs, and since when.

    Raises:
        BuildError: It cannot be started, or ends with another status than 0; the end of its log is shown.
    """
    log = directory / command.log
    log.parent.mkdir(parents=True, exist_ok=True)
    console.print(str(command), markup=False, highlight=False, soft_wrap=True, style="dim")
    with step(console, command.title), log.open("w", encoding="utf-8", errors="replace") as file:
        try:
            done = subprocess.run(
                command.arguments,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.environment},
                check=False,
            )
        except OSError as error:
            raise BuildError(f"{command.title}: {command.arguments[0]} cannot be started: {error}") from error
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        raise BuildError("\n".join([f"{command.title} failed with status {done.returncode}; its last lines:", *lines]))
