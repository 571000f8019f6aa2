"""HTTP: ``generate`` for one response, ``generate_stream`` (server-sent events) for many.

The standard library does it: `tritonclient.http` knows only the tensor endpoints, which refuse decoupled
models.
Each request has a connection of its own; closing that connection is how Triton is told to cancel.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from spec_cascade_client.errors import (
    ClientError,
    IdleTimeoutError,
    InvalidRequestError,
    NoConnectionError,
    ServerError,
    UnavailableError,
    from_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from http.client import HTTPResponse

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.wire import Outputs, Tensor

READ_SIZE = 2**16


class HttpTransport:
    """Sends each request on a new connection."""

    def __init__(
        self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float
    ) -> None:
        self._address = address
        self._path = f"{address.path}/v2/models/{quote(model, safe='')}"
        self._headers = {**headers, "Content-Type": "application/json"}
        self._connect_timeout = connect_timeout
        self._ssl = _ssl_context(tls) if address.encrypted else None

    def send(self, inputs: Sequence[Tensor], *, stream: bool, idle_timeout: float) -> HttpResponses:
        """See `Transport.send`."""
        body = json.dumps({tensor.name: tensor.json_value for tensor in inputs}).encode()
        headers = {**self._headers, "Accept": "text/event-stream" if stream else "application/json"}
        connection = self._connect()
        responses = HttpResponses(self._address, connection, idle_timeout, stream=stream)
        endpoint = "generate_stream" if stream else "generate"
        try:
            with responses.guarded():
                connection.request("POST", f"{self._path}/{endpoint}", body=body, headers=headers)
        except ClientError:
            responses.close()
            raise
        return responses

    def close(self) -> None:
        """Nothing is kept between requests."""

    def _connect(self) -> HTTPConnection:
        host, port = self._address.host, self._address.port
        connection = (
            HTTPSConnection(host, port, timeout=self._connect_timeout, context=self._ssl)
            if self._ssl
            else HTTPConnection(host, port, timeout=self._connect_timeout)
        )
        try:
            connection.connect()
        except OSError as error:  # also a certificate that does not hold, and a connection that takes too long
            raise NoConnectionError(str(self._address), _reason(error)) from error
        return connection


class HttpResponses:
    """The responses on one connection.

    `http.client` is not made for two threads. The lock is held while one reads; another that wants to close shuts
    the socket down first, which ends the read.
    """

    def __init__(self, address: Address, connection: HTTPConnection, idle_timeout: float, *, stream: bool) -> None:
        self._address = address
        self._connection = connection
        # The connection lets go of its socket once the headers are read; cancelling needs it to the end.
        self._socket: socket.socket = connection.sock
        self._socket.settimeout(idle_timeout)
        self._idle_timeout = idle_timeout
        self._stream = stream
        self._bodies: Iterator[bytes] | None = None
        self._closed = False
        self._lock = threading.RLock()

    def __iter__(self) -> HttpResponses:
        return self

    def __next__(self) -> Outputs:
        """See `Responses`."""
        try:
            with self._lock, self.guarded():
                if self._closed:
                    raise StopIteration
                if self._bodies is None:
                    self._bodies = self._open()
                return _outputs(next(self._bodies))
        except StopIteration:
            self._free()
            raise
        except ClientError:
            self._free()
            # Whoever closes from another thread wants the iteration to end, not to hear of a lost connection.
            if self._closed:
                raise StopIteration from None
            raise

    def close(self) -> None:
        """See `Responses`."""
        self._closed = True
        self._free()

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Turn what a socket and `http.client` raise into the client's errors."""
        try:
            yield
        except TimeoutError as error:
            raise IdleTimeoutError(str(self._address), self._idle_timeout) from error
        except (OSError, HTTPException) as error:
            raise UnavailableError(f"lost the connection to {self._address}: {_reason(error)}") from error

    def _open(self) -> Iterator[bytes]:
        reply = self._connection.getresponse()
        if reply.status != 200:
            raise _refusal(reply.status, reply.read())
        return _events(reply) if self._stream else iter([reply.read()])

    def _free(self) -> None:
        with contextlib.suppress(OSError):  # the other side may have closed first
            self._socket.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._connection.close()
            self._socket.close()


def _events(reply: HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event."""
    data: list[bytes] = []
    for line in _lines(reply):
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif not field and data:
            yield b"\n".join(data)
            data = []


def _lines(reply: HTTPResponse) -> Iterator[bytes]:
    # Not reply.readline(): it takes a connection that broke in mid-reply for the reply's end.
    rest = b""
    while received := reply.read1(READ_SIZE):
        *lines, rest = (rest + received).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def _outputs(body: bytes) -> Outputs:
    """Read one JSON response; Triton flattens a tensor of one element to a scalar."""
    try:
        fields: Any = json.loads(body)
    except ValueError as error:
        raise ServerError("the server sent a response that is not JSON") from error
    if not isinstance(fields, dict):
        raise ServerError("the server sent a response that is not a JSON object")
    if "error" in fields:  # Triton reports a failure after the first response, and some before it, with status 200
        raise from_server(fields["error"])
    return {name: value if isinstance(value, list) else [value] for name, value in fields.items()}


def _refusal(status: int, body: bytes) -> ClientError:
    """The error for a reply whose status is not 200; its body may be framed as an event."""
    try:
        text = json.loads(body.strip().removeprefix(b"data:"))["error"]
    except (ValueError, KeyError, TypeError):
        text = f"the server answered with HTTP status {status}"
    if status in (429, 503):
        return from_server(text, UnavailableError)
    return from_server(text, InvalidRequestError if 400 <= status < 500 else ServerError)


def _reason(error: Exception) -> str:
    if isinstance(error, HTTPException):
        return "the reply broke off"
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__


def _ssl_context(tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate_file:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except OSError as error:
        raise InvalidRequestError(f"cannot read the TLS files: {_reason(error)}") from error
    return context
