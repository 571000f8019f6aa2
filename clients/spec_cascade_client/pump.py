"""Waiting for what arrives in an event loop, within a clock's bounds and with a way out."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from spec_cascade_client.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

    from spec_cascade_client.clock import Clock

T = TypeVar("T")


class Pump(Generic[T]):
    """Takes items from where they arrive as soon as they do, in a task of its own.

    So a connection that breaks loses nothing of what came before: aiohttp drops what nobody has read yet.

    Args:
        source: Where they arrive.
        clock: Bounds the wait for each.
        release: Called in the loop when no more is taken although there may be more.

    Attributes:
        is_ending: Whether it was told to stop after a while.
    """

    def __init__(self, source: AsyncIterable[T], clock: Clock, release: Callable[[], object] = lambda: None) -> None:
        self.is_ending = False
        # Not the task's own word, which comes before what is said of its end.
        self._is_over = False
        self._clock = clock
        self._release = release
        self._thread = threading.get_ident()
        self._queue: asyncio.Queue[T | Exception | None] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run(source))
        self._task.add_done_callback(self._end)

    async def next(self) -> T | None:
        """Wait for the next item; None after the last.

        Raises:
            ClientError: It took too long.
            Exception: What the source raised.
        """
        if self._is_over and self._queue.empty():
            return None
        # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation.
        getting = asyncio.ensure_future(self._queue.get())
        try:
            await asyncio.wait({getting}, timeout=self._clock.wait())
            if not getting.done():
                raise self._clock.expired()
        finally:
            getting.cancel()
        item = getting.result()
        if isinstance(item, Exception):
            raise item
        return item

    async def ended(self, seconds: float) -> None:
        """Wait until the source has ended, at most so long."""
        await asyncio.wait({self._task}, timeout=seconds)

    def stop(self, after: float = 0.0) -> None:
        """Take no more, and end a wait; now or after some seconds. Idempotent; any thread may call it."""
        self.is_ending = after > 0
        # Not always in the loop's thread: whichever drops the last reference to a stream, or collects it, ends it.
        with suppress(RuntimeError):  # the loop is closed
            if threading.get_ident() == self._thread:
                self._cancel(after)
            else:
                self._task.get_loop().call_soon_threadsafe(self._cancel, after)

    def _cancel(self, after: float) -> None:
        if after > 0 and not self._task.done():
            self._task.get_loop().call_later(after, self._task.cancel)
        else:
            self._task.cancel()

    async def _run(self, source: AsyncIterable[T]) -> None:
        try:
            async for item in source:
                self._queue.put_nowait(item)
        except Exception as error:  # whatever it is, it is for whoever waits
            self._queue.put_nowait(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._is_over = True
        if task.cancelled():
            self._release()
        self._queue.put_nowait(UnavailableError("the stream was closed") if task.cancelled() else None)
