"""Triton's generate endpoints without the connection: what is sent, and how what comes back is read."""

from __future__ import annotations

import json
import os
import socket
import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from spec_cascade_client.errors import (
    BusyError,
    ClientError,
    InvalidRequestError,
    ServerError,
    UnavailableError,
    from_server,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs


def path(address: Address, model: str, *, stream: bool) -> str:
    """Where a request goes: ``generate`` gives one response, ``generate_stream`` server-sent events."""
    return f"{address.path}/v2/models/{quote(model, safe='')}/generate{'_stream' if stream else ''}"


def headers(more: Mapping[str, str], request: Request) -> dict[str, str]:
    """The headers of a request."""
    accepted = "text/event-stream" if request.stream else "application/json"
    ours = {"Content-Type": "application/json", "Accept": accepted, "Accept-Encoding": "identity"}
    # A header of the caller that differs in case alone would be sent beside ours.
    return {**{name: value for name, value in more.items() if name.title() not in ours}, **ours}


def body(request: Request) -> bytes:
    """The body of a request."""
    return json.dumps({tensor.name: tensor.json_value for tensor in request.tensors}).encode()


class EventDecoder:
    """Finds server-sent events in a stream of bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, received: bytes) -> list[bytes]:
        """Take more bytes; return the data of each event that they complete."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        events = []
        for line in lines:
            line = line.removesuffix(b"\r")
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not line and self._data:  # a line that begins with a colon is a comment, and ends nothing
                events.append(b"\n".join(self._data))
                self._data = []
        return events


def read_outputs(response: bytes) -> Outputs:
    """Read one JSON response; Triton flattens a tensor of one element to a scalar.

    Raises:
        ClientError: The response is an error, or is not what the wire promises.
    """
    try:
        fields: Any = json.loads(response)
    except (ValueError, RecursionError) as error:
        raise ServerError("the server sent a response that is not JSON") from error
    if not isinstance(fields, dict):
        raise ServerError("the server sent a response that is not a JSON object")
    if "error" in fields:  # Triton reports a failure after the first response, and some before it, with status 200
        raise from_server(fields["error"])
    return {name: value if isinstance(value, list) else [value] for name, value in fields.items()}


def refusal(status: int, response: bytes) -> ClientError:
    """The error for a reply whose status is not 200; its body may be framed as an event."""
    try:
        text = json.loads(response.strip().removeprefix(b"data:"))["error"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = f"the server answered with HTTP status {status}"
    if status in (429, 503):
        return from_server(text, BusyError)
    return from_server(text, InvalidRequestError if 400 <= status < 500 else ServerError)


def lost(address: Address, error: Exception) -> ClientError:
    """The error for a connection that broke."""
    return UnavailableError(f"lost the connection to {address}: {reason(error)}")


def reason(error: Exception) -> str:
    """What a user is told of an error of the connection."""
    if isinstance(error, HTTPException):
        return "the reply broke off"
    # Of an encrypted connection, and of a name's look-up, the numbers mean something else.
    if isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, socket.gaierror)) and error.errno:
        return os.strerror(error.errno)
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """The context for an encrypted connection.

    Raises:
        InvalidRequestError: A file cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=tls.ca_file)
        if tls.certificate_file:
            context.load_cert_chain(tls.certificate_file, tls.key_file)
    except OSError as error:
        raise InvalidRequestError(f"cannot read the TLS files: {reason(error)}") from error
    if tls.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
