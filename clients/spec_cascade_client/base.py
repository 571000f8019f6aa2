"""What the two clients have in common: where the server is, and how a call becomes a request."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from spec_cascade_client.address import Address, Tls
from spec_cascade_client.clock import Clock, checked_seconds
from spec_cascade_client.errors import InvalidRequestError
from spec_cascade_client.options import Options
from spec_cascade_client.request import Request
from spec_cascade_client.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spec_cascade_client.history import History
    from spec_cascade_client.options import Message

DEFAULTS = Options()
GRACE_MS = 1000
"""How long after a deadline the server gives up by itself, so that it is the client that says what happened."""
_LONGEST_MS = 2**31 - 1
# What both protocols can send; gRPC takes names that end in -bin for bytes.
_HEADER_NAME = re.compile(r"[A-Za-z0-9._-]+(?<!-bin)", re.IGNORECASE)

T = TypeVar("T")


class BaseClient(ABC, Generic[T]):
    """Asks a server that runs the spec-cascade models; any number of requests may run at a time.

    Args:
        url: ``grpc://``, ``grpcs://``, ``http://`` or ``https://`` and ``host[:port]``.
        model: The Triton model to ask.
        headers: Sent with every request (HTTP headers, gRPC metadata), e.g. a token.
        restricted_key: Name and value of the key, where Triton was started with ``--http-restricted-api`` or
            ``--grpc-restricted-protocol`` for inference.
        tls: Certificates, for the encrypted schemes.
        retry: How often to send what the server did not take.
        connect_timeout: Seconds to wait for an HTTP connection; gRPC's connecting counts as silence.
        idle_timeout: Seconds of silence after which a stream fails: a server whose model process died accepts
            requests and never answers them.
        response_timeout: Seconds to wait for the one response of `generate` and `chat`.
        deadline: Seconds that a request may take in all, its further attempts included; None is no limit. The server
            is told, so that it does not go on for long after.

    Raises:
        InvalidRequestError: The URL, a header, a time or a TLS file is not usable.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "ensemble",
        headers: Mapping[str, str] | None = None,
        restricted_key: tuple[str, str] | None = None,
        tls: Tls | None = None,
        retry: Retry | None = None,
        connect_timeout: float = 5.0,
        idle_timeout: float = 60.0,
        response_timeout: float = 600.0,
        deadline: float | None = None,
    ) -> None:
        address = Address.parse(url)
        self._url = str(address)
        self._retry = retry or Retry()
        self._idle_timeout = checked_seconds("idle_timeout", idle_timeout)
        self._response_timeout = checked_seconds("response_timeout", response_timeout)
        self._deadline = deadline if deadline is None else checked_seconds("deadline", deadline)
        connect_timeout = checked_seconds("connect_timeout", connect_timeout)
        sent = all_headers(address, headers, restricted_key)
        self._transport = self._connect(address, model, sent, tls or Tls(), connect_timeout)

    @abstractmethod
    def _connect(self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float) -> T:
        """Make the transport for an address."""

    def _request(
        self, prompt: str | Sequence[Message] | History, options: Options, deadline: float | None, *, stream: bool
    ) -> Request:
        deadline = self._deadline if deadline is None else checked_seconds("deadline", deadline)
        if deadline is not None and options.timeout_ms is None:
            options = replace(options, timeout_ms=min(math.ceil(deadline * 1000) + GRACE_MS, _LONGEST_MS))
        clock = Clock(self._url, self._idle_timeout if stream else self._response_timeout, deadline)
        return Request(prompt, options, stream=stream, clock=clock, retry=self._retry)


def all_headers(
    address: Address, headers: Mapping[str, str] | None, restricted_key: tuple[str, str] | None
) -> dict[str, str]:
    """A caller's headers, and the key under the name at which Triton looks for it.

    Raises:
        InvalidRequestError: A header cannot be sent.
    """
    headers = dict(headers or {})
    if restricted_key is not None:
        name, value = restricted_key
        headers[f"triton-grpc-protocol-{name}" if address.is_grpc else name] = value
    for name, value in headers.items():
        if not (isinstance(name, str) and _HEADER_NAME.fullmatch(name)):
            raise InvalidRequestError(f"header {name!r}: must be a name of letters, digits, '-', '_', '.', not in -bin")
        if not (isinstance(value, str) and value.isascii() and value.isprintable()):
            raise InvalidRequestError(f"header {name!r}: its value must be printable ASCII")
    return headers
