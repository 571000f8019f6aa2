"""What is shown while something takes longer than two seconds; nothing where nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TransferSpeedColumn,
)

_TITLE = TextColumn("{task.description}")


def step(console: Console, title: str) -> Progress:
    """A spinner with the time that passed, shown inside a `with` block: for work of unknown length."""
    columns = (SpinnerColumn(), _TITLE, TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    progress.add_task(title, total=None)
    return progress


class BytesBar(Progress):
    """A bar over bytes, shown inside a `with` block."""

    def __init__(self, console: Console, title: str, total: int | None = None) -> None:
        columns = (_TITLE, BarColumn(), DownloadColumn(), TransferSpeedColumn())
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._bytes = self.add_task(title, total=total)

    def gain(self, size: int) -> None:
        """Move on by ``size`` bytes."""
        self.update(self._bytes, advance=size)

    def reach(self, size: int, total: int) -> None:
        """Stand at ``size`` of ``total`` bytes; a total of 0 is unknown."""
        self.update(self._bytes, completed=size, total=total or None)
