"""Ctrl-C and SIGTERM end a build, at a moment when no command is forgotten over it."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Both signals as KeyboardInterrupt, held back where asked; only a main thread gets any."""

    def __init__(self) -> None:
        self._held = False
        self._pending = False

    @contextmanager
    def as_exceptions(self) -> Iterator[None]:
        """Raise them inside the block."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # A shell's background job is started with SIGINT ignored, and is to stay so.
        heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, self._come) for number in heeded}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Raise those that come inside the block at its end.

        A blocked signal would do the same, and be blocked for commands that are started in the block, too.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
            if self._pending:
                self._pending = False
                raise KeyboardInterrupt

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        if not self._held:
            raise KeyboardInterrupt
        self._pending = True
