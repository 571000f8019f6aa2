"""What is shown while something takes longer than two seconds; nothing where nobody watches."""

from __future__ import annotations

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
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


class CountBar(Progress):
    """A bar over things that are counted, with a note, shown inside a `with` block."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        columns = (_TITLE, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._count = self.add_task(title, total=total, note="")

    def gain(self, count: int) -> None:
        """Move on by ``count``."""
        self.update(self._count, advance=count)

    def reach(self, count: int, note: str | None = None) -> None:
        """Stand at ``count``, with another note."""
        self.update(self._count, completed=count)
        if note is not None:
            self.update(self._count, note=note)
