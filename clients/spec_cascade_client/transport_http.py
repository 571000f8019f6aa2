"""HTTP: ``generate`` for one response, ``generate_stream`` (server-sent events) for many.

The standard library does it: `tritonclient.http` knows only the tensor endpoints, which refuse decoupled
models.
Each request has a connection of its own; closing that connection is how Triton is told to cancel.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import TYPE_CHECKING
from weakref import WeakSet

from spec_cascade_client import http_wire
from spec_cascade_client.errors import NoConnectionError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import Buffer

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
        self._closed = False
        self._running: WeakSet[HttpResponses] = WeakSet()
        self._lock = threading.Lock()

    def send(self, request: Request) -> HttpResponses:
        """See `Transport.send`."""
        path = http_wire.path(self._address, self._model, stream=request.stream)
        headers = http_wire.headers(self._headers, request)
        body = http_wire.body(request)
        connection = self._connect(request.clock)
        responses = HttpResponses(self._address, connection, request)
        try:
            with self._lock:
                if self._closed:
                    raise UnavailableError("the client is closed")
                self._running.add(responses)
            with responses.guarded():
                connection.request("POST", path, body=body, headers=headers)
        except BaseException:
            responses.close()
            raise
        return responses

    def close(self) -> None:
        """Break the connections."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for responses in running:
            responses.break_off()

    def _connect(self, clock: Clock) -> HTTPConnection:
        if self._closed:
            raise UnavailableError("the client is closed")
        host, port = self._address.host, self._address.port
        timeout = clock.wait(self._connect_timeout)
        connection = (
            HTTPSConnection(host, port, timeout=timeout, context=self._ssl)
            if self._ssl
            else HTTPConnection(host, port, timeout=timeout)
        )
        try:
            connection.connect()
        except OSError as error:  # also a certificate that does not hold, and a connection that takes too long
            clock.check_deadline()
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
        self.break_off()
        with self._lock:
            self._connection.close()
            self._socket.close()

    def break_off(self) -> None:
        """Shut the connection; whoever reads from it finds it broken. Any thread may call it."""
        with contextlib.suppress(OSError):  # the other side may have closed first
            # Not the method of an encrypted socket, which takes the encryption from under whoever reads.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

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
        reply = HTTPResponse(_Incoming(self._socket, self._clock), method="POST")  # type: ignore[arg-type]
        reply.begin()
        if reply.status != 200:
            raise http_wire.refusal(reply.status, reply.read())
        if not stream:
            yield reply.read()
            return
        decoder = http_wire.EventDecoder()
        # Not reply.readline(): it takes a connection that broke in mid-reply for the reply's end.
        while received := reply.read1(READ_SIZE):
            yield from decoder.feed(received)


class _Incoming(RawIOBase):
    """What arrives on a socket, within the wait that has begun: bytes that trickle in do not make it longer."""

    def __init__(self, source: socket.socket, clock: Clock) -> None:
        self._source = source
        self._clock = clock

    def makefile(self, _: str) -> BufferedReader:
        """What `HTTPResponse` asks a socket for."""
        return BufferedReader(self, READ_SIZE)

    def readable(self) -> bool:
        """See `RawIOBase`."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """See `RawIOBase`."""
        self._source.settimeout(self._clock.rest())
        return self._source.recv_into(buffer)
