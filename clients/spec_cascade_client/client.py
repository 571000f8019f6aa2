"""The client for threads; `aio` has the one for an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client.base import DEFAULTS, BaseClient
from spec_cascade_client.stream import Stream
from spec_cascade_client.wire import Transport

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from typing_extensions import Self

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.history import History
    from spec_cascade_client.options import Message, Options
    from spec_cascade_client.results import Result


class Client(BaseClient[Transport]):
    """Asks a server that runs the spec-cascade models. Thread-safe; any number of requests may run at a time.

    >>> with Client("grpc://127.0.0.1:8001") as client:
    ...     for chunk in client.stream([{"role": "user", "content": "Why is the sky blue?"}]):
    ...         print(chunk.text, end="", flush=True)

    `BaseClient` describes the arguments.
    """

    def stream(
        self,
        prompt: str | Sequence[Message] | History,
        options: Options = DEFAULTS,
        *,
        deadline: float | None = None,
    ) -> Stream:
        """Send a request whose output arrives chunk by chunk, one for each round.

        Args:
            prompt: Text to continue, or the messages of a conversation, which the server puts into the chat
                template of the model; of a `History` the oldest turns are forgotten when it is too long.
            options: How to generate.
            deadline: Seconds that the request may take in all; None takes the client's.

        Returns:
            An iterator over the chunks; also a context manager that cancels what is left when it closes.

        Raises:
            InvalidRequestError: A value cannot be sent.
            NoConnectionError: The server cannot be reached (over gRPC, the first chunk says so).
        """
        return self._send(prompt, options, deadline, stream=True)

    def generate(self, prompt: str, options: Options = DEFAULTS, *, deadline: float | None = None) -> Result:
        """Continue a text; returns when all of it is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return self._send(prompt, options, deadline, stream=False).result()

    def chat(
        self, messages: Sequence[Message] | History, options: Options = DEFAULTS, *, deadline: float | None = None
    ) -> Result:
        """Answer the last message of a conversation; returns when all of the answer is there.

        Raises:
            ClientError: The server refused, failed, went away, or did not answer in time.
        """
        return self._send(messages, options, deadline, stream=False).result()

    def close(self) -> None:
        """Cancel what still runs and free the connections. Idempotent; any thread may call it."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(
        self, prompt: str | Sequence[Message] | History, options: Options, deadline: float | None, *, stream: bool
    ) -> Stream:
        return Stream(self._transport, self._request(prompt, options, deadline, stream=stream))

    def _connect(
        self, address: Address, model: str, headers: Mapping[str, str], tls: Tls, connect_timeout: float
    ) -> Transport:
        # Imported here: an HTTP client starts in a third of the time without gRPC.
        if address.is_grpc:
            from spec_cascade_client.transport_grpc import GrpcTransport

            return GrpcTransport(address, model, headers, tls)
        from spec_cascade_client.transport_http import HttpTransport

        return HttpTransport(address, model, headers, tls, connect_timeout)
