"""The client for an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from spec_cascade_client.base import DEFAULTS, BaseClient
from spec_cascade_client.errors import ClientError
from spec_cascade_client.output import Output
from spec_cascade_client.wire import AsyncTransport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.history import History
    from spec_cascade_client.options import Message, Options
    from spec_cascade_client.request import Request
    from spec_cascade_client.results import Chunk, Result
    from spec_cascade_client.wire import AsyncResponses, Outputs


class AsyncClient(BaseClient[AsyncTransport]):
    """`Client` for asyncio; it belongs to the event loop of its first request.

    >>> async with AsyncClient("grpc://127.0.0.1:8001") as client:
    ...     async with client.stream("Why is the sky blue?") as stream:
    ...         async for chunk in stream:
    ...             print(chunk.text, end="", flush=True)

    `BaseClient` describes the arguments. Cancelling the task that waits cancels the request.
    """

    def stream(
        self,
        prompt: str | Sequence[Message] | History,
        options: Options = DEFAULTS,
        *,
        deadline: float | None = None,
    ) -> AsyncStream:
        """Make a request whose output arrives chunk by chunk; it is sent when the first is asked for.

        Arguments as for `Client.stream`.

        Raises:
            InvalidRequestError: A value cannot be sent.
        """
        return AsyncStream(self._transport, self._request(prompt, options, deadline, stream=True))

    async def generate(self, prompt: str, options: Options = DEFAULTS, *, deadline: float | None = None) -> Result:
        """Continue a text; returns when all of it is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return await self._whole(prompt, options, deadline)

    async def chat(
        self, messages: Sequence[Message] | History, options: Options = DEFAULTS, *, deadline: float | None = None
    ) -> Result:
        """Answer the last message of a conversation; returns when all of the answer is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return await self._whole(messages, options, deadline)

    async def close(self) -> None:
        """Cancel what still runs and free the connections. Idempotent."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _whole(
        self, prompt: str | Sequence[Message] | History, options: Options, deadline: float | None
    ) -> Result:
        request = self._request(prompt, options, deadline, stream=False)
        async with AsyncStream(self._transport, request) as stream:
            return await stream.result()

    def _connect(
        self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float
    ) -> AsyncTransport:
        # Imported here, as for `Client`: each takes a while, and one is enough.
        if address.is_grpc:
            from spec_cascade_client.transport_grpc_aio import AsyncGrpcTransport

            return AsyncGrpcTransport(address, model, headers, tls)
        from spec_cascade_client.transport_http_aio import AsyncHttpTransport

        return AsyncHttpTransport(address, model, headers, tls, connect_timeout)


class AsyncStream:
    """`Stream` for asyncio: iterate with ``async for``; leave the ``async with`` block, or `close`, to cancel the rest.

    A task that is cancelled while it waits for a chunk cancels the request.
    """

    def __init__(self, transport: AsyncTransport, request: Request) -> None:
        self._transport = transport
        self._request = request
        self._output = Output()
        self._closed = asyncio.Event()
        self._responses: AsyncResponses | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        try:
            outputs = await self._receive()
            if outputs is not None:
                return self._output.add(outputs)
        except (ClientError, asyncio.CancelledError):
            self._cancel()
            raise
        # A stream that ends before its last chunk has lost text, unless this side cut it.
        if not self._closed.is_set():
            self._output.check_complete()
        raise StopAsyncIteration

    async def result(self) -> Result:
        """Read what is left and return the whole."""
        async for _ in self:
            pass
        return self._output.result()

    def close(self) -> None:
        """Cancel what is left on the server. Idempotent; ends an iteration in another task of the same loop."""
        self._closed.set()
        self._cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A stream that is dropped half-read must not keep the server busy.
        self.close()

    def _cancel(self) -> None:
        if self._responses is not None:
            self._responses.close()

    async def _receive(self) -> Outputs | None:
        """The next response, of a further attempt where the one before failed and may be repeated."""
        while not self._closed.is_set():
            try:
                if self._responses is None:
                    self._responses = self._transport.send(self._request)
                return await self._responses.receive()
            except ClientError as error:  # noqa: PERF203 - a failed attempt is slow enough
                if self._closed.is_set() or self._output.is_complete:
                    break
                if not self._output.is_empty:
                    raise
                self._responses = None
                await self._pause(self._request.pause_after(error))
        return None

    async def _pause(self, seconds: float) -> None:
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({closing}, timeout=seconds)
        finally:
            closing.cancel()
