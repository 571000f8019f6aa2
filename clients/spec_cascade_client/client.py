"""The client: one object for a server, over HTTP or gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client.address import Address, Tls
from spec_cascade_client.errors import InvalidRequestError
from spec_cascade_client.options import Options
from spec_cascade_client.stream import Stream
from spec_cascade_client.transport_http import HttpTransport
from spec_cascade_client.wire import Transport, request_tensors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from spec_cascade_client.options import Message
    from spec_cascade_client.results import Result

DEFAULTS = Options()


class Client:
    """Asks a server that runs the spec-cascade models. Thread-safe; any number of requests may run at a time.

    >>> with Client("grpc://127.0.0.1:8001") as client:
    ...     for chunk in client.stream([{"role": "user", "content": "Why is the sky blue?"}]):
    ...         print(chunk.text, end="", flush=True)

    Args:
        url: ``grpc://``, ``grpcs://``, ``http://`` or ``https://`` and ``host[:port]``.
        model: The Triton model to ask.
        headers: Sent with every request (HTTP headers, gRPC metadata), e.g. a key.
        tls: Certificates, for the encrypted schemes.
        connect_timeout: Seconds to wait for an HTTP connection; gRPC's connecting counts as silence.
        idle_timeout: Seconds of silence after which a stream fails: a server whose model process died accepts
            requests and never answers them.
        response_timeout: Seconds to wait for the one response of `generate` and `chat`.

    Raises:
        InvalidRequestError: The URL or a TLS file is not usable.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str = "ensemble",
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
        connect_timeout: float = 5.0,
        idle_timeout: float = 60.0,
        response_timeout: float = 600.0,
    ) -> None:
        address = Address.parse(url)
        headers = _checked_headers(headers or {})
        self._idle_timeout = idle_timeout
        self._response_timeout = response_timeout
        self._transport: Transport
        if address.scheme.startswith("grpc"):
            # Imported here: an HTTP client starts in a third of the time without gRPC.
            from spec_cascade_client.transport_grpc import GrpcTransport

            self._transport = GrpcTransport(address, model, headers, tls or Tls())
        else:
            self._transport = HttpTransport(address, model, headers, tls or Tls(), connect_timeout)

    def stream(self, prompt: str | Sequence[Message], options: Options = DEFAULTS) -> Stream:
        """Send a request whose output arrives chunk by chunk, one for each round.

        Args:
            prompt: Text to continue, or the messages of a conversation, which the server puts into the chat
                template of the model.
            options: How to generate.

        Returns:
            An iterator over the chunks; also a context manager that cancels what is left when it closes.

        Raises:
            InvalidRequestError: A value cannot be sent.
            NoConnectionError: The server cannot be reached (over gRPC, the first chunk says so).
        """
        return self._send(prompt, options, stream=True)

    def generate(self, prompt: str, options: Options = DEFAULTS) -> Result:
        """Continue a text; returns when all of it is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return self._send(prompt, options, stream=False).result()

    def chat(self, messages: Sequence[Message], options: Options = DEFAULTS) -> Result:
        """Answer the last message of a conversation; returns when all of the answer is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return self._send(messages, options, stream=False).result()

    def close(self) -> None:
        """Cancel what still runs over gRPC and free the connections. Idempotent."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, prompt: str | Sequence[Message], options: Options, *, stream: bool) -> Stream:
        tensors = request_tensors(prompt, options, stream=stream)
        timeout = self._idle_timeout if stream else self._response_timeout
        return Stream(self._transport.send(tensors, stream=stream, idle_timeout=timeout))


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in headers.items():
        if not (name and (name + value).isascii() and (name + value).isprintable()):
            raise InvalidRequestError(f"header {name!r}: name and value must be printable ASCII")
    return headers
