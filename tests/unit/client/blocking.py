"""The asyncio client behind the face of the other one, so that one test asks both."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

from spec_cascade_client import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from spec_cascade_client import AsyncStream, Chunk, Result


class BlockingClient:
    """`Client`, done by an `AsyncClient` in a loop that runs in a thread of its own."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self._client = AsyncClient(*arguments, **named)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def stream(self, *arguments: Any, **named: Any) -> BlockingStream:
        return BlockingStream(self, self._client.stream(*arguments, **named))

    def generate(self, *arguments: Any, **named: Any) -> Result:
        return self.wait(self._client.generate(*arguments, **named))

    def chat(self, *arguments: Any, **named: Any) -> Result:
        return self.wait(self._client.chat(*arguments, **named))

    def close(self) -> None:
        self.wait(self._client.close())

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


class BlockingStream:
    """`Stream`, done by an `AsyncStream`."""

    def __init__(self, client: BlockingClient, stream: AsyncStream) -> None:
        self._client = client
        self._stream = stream

    def __iter__(self) -> BlockingStream:
        return self

    def __next__(self) -> Chunk:
        async def following() -> Chunk | None:
            async for chunk in self._stream:
                return chunk
            return None

        if (chunk := self._client.wait(following())) is None:
            raise StopIteration
        return chunk

    def result(self) -> Result:
        return self._client.wait(self._stream.result())

    def close(self) -> None:
        async def close() -> None:
            self._stream.close()

        self._client.wait(close())

    def __enter__(self) -> BlockingStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
