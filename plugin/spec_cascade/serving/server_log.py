"""The log of a `tritonserver` process: passed on as it comes, its end kept for errors."""

from __future__ import annotations

import re
import sys
from collections import deque
from contextlib import suppress
from threading import Thread
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_KEPT_LINES = 1000
_TAIL_LINES = 15
# The server quotes a Python exception with its class and, behind an escaped newline, its traceback.
_MODEL_FAILURE = re.compile(
    r"failed to load '(?P<model>\w+)' version \d+: [\w ]+: (?:\w+Error: )?(?P<reason>.*?)(?:\\n|\"?$)"
)


class ServerLog:
    """Reads a process's output until it ends.

    Args:
        stream: The output.
        file: Where to append it; None for nowhere.

    Attributes:
        echo: Whether to write what comes to standard error, too.
    """

    def __init__(self, stream: IO[bytes], file: Path | None, *, echo: bool = False) -> None:
        self._stream = stream
        self._file = file.open("ab", buffering=0) if file is not None else None
        self.echo = echo
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._reader = Thread(target=self._read, name="tritonserver-log", daemon=True)
        self._reader.start()

    def close(self) -> None:
        """Wait until all has been read: every process that writes to the stream must have ended."""
        self._reader.join()
        self._stream.close()
        if self._file is not None:
            self._file.close()

    def failure(self) -> str:
        """Why the server ended, as far as its log tells."""
        for line in self._lines:
            if (match := _MODEL_FAILURE.search(line)) is not None:
                return f"tritonserver could not load the model {match['model']!r}: {match['reason']}"
        return f"tritonserver ended{self.tail()}"

    def tail(self) -> str:
        """The end of the log, as the end of an error's text."""
        lines = [line for line in self._lines if line.strip()][-_TAIL_LINES:]
        return "; the end of its log:\n" + "\n".join(lines) if lines else ""

    def _read(self) -> None:
        for line in self._stream:
            self._lines.append(line.decode(errors="replace").rstrip("\n"))
            # The server stands still when nobody reads: a full disk or a closed terminal must not stop the reading.
            if self._file is not None:
                with suppress(OSError):
                    self._file.write(line)
            if self.echo:
                with suppress(OSError, ValueError):
                    sys.stderr.buffer.write(line)
                    sys.stderr.buffer.flush()
