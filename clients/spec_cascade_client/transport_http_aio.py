"""HTTP in an event loop, by the client library that tritonclient brings for it; see `transport_http`."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakSet

import aiohttp

from spec_cascade_client import http_wire
from spec_cascade_client.errors import NoConnectionError, UnavailableError
from spec_cascade_client.pump import Pump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.clock import Clock
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs


class AsyncHttpTransport:
    """Sends each request on a new connection."""

    def __init__(
        self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float
    ) -> None:
        self._address = address
        self._model = model
        self._headers = headers
        # Without a total: the requests' clocks bound the waits.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout)
        self._ssl = http_wire.ssl_context(tls) if address.encrypted else True
        self._session: aiohttp.ClientSession | None = None
        # Closing the session breaks the connections, but wakes nobody who reads from them.
        self._running: WeakSet[AsyncHttpResponses] = WeakSet()
        self._closed = False

    def send(self, request: Request) -> AsyncHttpResponses:
        """See `AsyncTransport.send`."""
        if self._closed:
            raise UnavailableError("the client is closed")
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._ssl, force_close=True, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=self._timeout)
        responses = AsyncHttpResponses(self._address, self._bodies(self._session, request), request.clock)
        self._running.add(responses)
        return responses

    async def close(self) -> None:
        """Cancel what still runs and break the connections."""
        self._closed = True
        for responses in self._running:
            responses.close()
        if self._session is not None:
            await self._session.close()

    async def _bodies(self, session: aiohttp.ClientSession, request: Request) -> AsyncIterator[bytes]:
        """Send a request; the bodies of its responses."""
        path = http_wire.path(self._address, self._model, stream=request.stream)
        reply = await session.post(
            f"{self._address.origin}{path}",
            data=http_wire.body(request),
            headers=http_wire.headers(self._headers, request),
            allow_redirects=False,
        )
        try:
            if reply.status != 200:
                raise http_wire.refusal(reply.status, await reply.read())
            if not request.stream:
                yield await reply.read()
                return
            decoder = http_wire.EventDecoder()
            while received := await reply.content.readany():
                for event in decoder.feed(received):
                    yield event
        finally:
            reply.close()


class AsyncHttpResponses:
    """The responses on one connection."""

    def __init__(self, address: Address, bodies: AsyncIterator[bytes], clock: Clock) -> None:
        self._address = address
        self._pump = Pump(bodies, clock)

    async def receive(self) -> Outputs | None:
        """See `AsyncResponses`."""
        outputs = None
        try:
            body = await self._pump.next()
            if body is not None:
                outputs = http_wire.read_outputs(body)
            return outputs
        except aiohttp.ClientConnectorCertificateError as error:
            raise NoConnectionError(str(self._address), http_wire.reason(error.certificate_error)) from error
        except aiohttp.ClientConnectorError as error:
            raise NoConnectionError(str(self._address), http_wire.reason(error.os_error)) from error
        except aiohttp.ServerTimeoutError as error:  # of connecting alone: no other is set
            raise NoConnectionError(str(self._address), "timed out") from error
        except (aiohttp.ClientError, OSError) as error:
            raise http_wire.lost(self._address, error) from error
        finally:
            if outputs is None:
                self.close()

    def close(self) -> None:
        """See `AsyncResponses`."""
        self._pump.stop()
