"""HTTP: ``generate`` for one response, ``generate_stream`` (server-sent events) for many.

The standard library does it: `tritonclient.http` knows only the tensor endpoints, which refuse decoupled
models.
Each request has a connection of its own; closing that connection is how Triton is told to cancel.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING

from spec_cascade_client import http_wire
from spec_cascade_client.errors import ClientError, NoConnectionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from http.client import HTTPResponse

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.clock import Clock
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs

READ_SIZE = 2**16


class HttpTransport:
    """Sends each request on a new connection."""

    def __init__(
        self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float
    ) -> None:
        self._address = address
        self._model = model
        self._headers = headers
        self._connect_timeout = connect_timeout
        self._ssl = http_wire.ssl_context(tls) if address.encrypted else None

    def send(self, request: Request) -> HttpResponses:
        """See `Transport.send`."""
        path = http_wire.path(self._address, self._model, request)
        headers = http_wire.headers(self._headers, request)
        connection = self._connect(request.clock.wait(self._connect_timeout))
        responses = HttpResponses(self._address, connection, request)
        try:
            with responses.guarded():
                connection.request("POST", path, body=http_wire.body(request), headers=headers)
        except ClientError:
            responses.close()
            raise
        return responses

    def close(self) -> None:
        """Nothing is kept between requests."""

    def _connect(self, timeout: float) -> HTTPConnection:
        host, port = self._address.host, self._address.port
        connection = (
            HTTPSConnection(host, port, timeout=timeout, context=self._ssl)
            if self._ssl
            else HTTPConnection(host, port, timeout=timeout)
        )
        try:
            connection.connect()
        except OSError as error:  # also a certificate that does not hold, and a connection that takes too long
            raise NoConnectionError(str(self._address), http_wire.reason(error)) from error
        return connection


class HttpResponses:
    """The responses on one connection.

    `http.client` is not made for two threads. The lock is held while one reads; another that wants to close shuts
    the socket down first, which ends the read.
    """

    def __init__(self, address: Address, connection: HTTPConnection, request: Request) -> None:
        self._address = address
        self._connection = connection
        # The connection lets go of its socket once the headers are read; cancelling needs it to the end.
        self._socket: socket.socket = connection.sock
        self._clock: Clock = request.clock
        self._bodies = self._read(stream=request.stream)
        self._freed = False
        self._lock = threading.RLock()

    def receive(self) -> Outputs | None:
        """See `Responses`."""
        outputs = None
        try:
            with self._lock:
                if self._freed:
                    return None
                with self.guarded():
                    body = next(self._bodies, None)
            if body is not None:
                outputs = http_wire.read_outputs(body)
            return outputs
        finally:
            if outputs is None:
                self.close()

    def close(self) -> None:
        """See `Responses`."""
        self._freed = True
        with contextlib.suppress(OSError):  # the other side may have closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connection.close()
            self._socket.close()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what a socket and `http.client` raise into the client's errors."""
        try:
            self._socket.settimeout(self._clock.wait())
            yield
        except TimeoutError as error:
            raise self._clock.expired() from error
        except (OSError, HTTPException) as error:
            raise http_wire.lost(self._address, error) from error

    def _read(self, *, stream: bool) -> Iterator[bytes]:
        """The bodies of the responses."""
        reply = self._connection.getresponse()
        if reply.status != 200:
            raise http_wire.refusal(reply.status, reply.read())
        if not stream:
            yield reply.read()
            return
        decoder = http_wire.EventDecoder()
        while received := self._read_some(reply):
            yield from decoder.feed(received)

    def _read_some(self, reply: HTTPResponse) -> bytes:
        self._socket.settimeout(self._clock.wait())
        # Not reply.readline(): it takes a connection that broke in mid-reply for the reply's end.
        return reply.read1(READ_SIZE)
