"""Waiting for what arrives in an event loop, within a clock's bounds and with a way out."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Generic, TypeVar

from spec_cascade_client.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from spec_cascade_client.clock import Clock

T = TypeVar("T")


class Pump(Generic[T]):
    """Takes items from where they arrive as soon as they do, in a task of its own.

    So a connection that breaks loses nothing of what came before: aiohttp drops what nobody has read yet.

    Args:
        source: Where they arrive.
        clock: Bounds the wait for each.
    """

    def __init__(self, source: AsyncIterable[T], clock: Clock) -> None:
        self._clock = clock
        self._queue: asyncio.Queue[T | Exception | None] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run(source))
        self._task.add_done_callback(self._end)

    async def next(self) -> T | None:
        """Wait for the next item; None after the last.

        Raises:
            ClientError: It took too long.
            Exception: What the source raised.
        """
        if self._task.done() and self._queue.empty():
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

    def stop(self) -> None:
        """Take no more, and end a wait. Idempotent."""
        if not self._task.get_loop().is_closed():
            self._task.cancel()

    async def _run(self, source: AsyncIterable[T]) -> None:
        try:
            async for item in source:
                self._queue.put_nowait(item)
        except Exception as error:  # whatever it is, it is for whoever waits
            self._queue.put_nowait(error)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._queue.put_nowait(UnavailableError("the stream was closed") if task.cancelled() else None)
