"""The chunks of one request as they arrive."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from spec_cascade_client.errors import ClientError
from spec_cascade_client.output import Output

if TYPE_CHECKING:
    from typing_extensions import Self

    from spec_cascade_client.request import Request
    from spec_cascade_client.results import Chunk, Result
    from spec_cascade_client.wire import Outputs, Responses, Transport


class Stream:
    """Iterate to receive each chunk once, in order; leave the ``with`` block, or `close`, to cancel the rest.

    Iterating and `result` raise `ClientError` when the server refuses, fails, goes away, or is silent for too
    long.
    """

    def __init__(self, transport: Transport, request: Request) -> None:
        self._transport = transport
        self._request = request
        self._output = Output()
        self._closed = threading.Event()
        self._responses: Responses | None = None
        self._send()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        outputs = self._receive()
        if outputs is None:
            # A stream that ends before its last chunk has lost text, unless this side cut it.
            if not self._closed.is_set():
                self._output.check_complete()
            raise StopIteration
        try:
            return self._output.add(outputs)
        except ClientError:
            self._cancel()
            raise

    def result(self) -> Result:
        """Read what is left and return the whole."""
        for _ in self:
            pass
        return self._output.result()

    def close(self) -> None:
        """Cancel what is left on the server. Idempotent; any thread may call it, and ends the iteration."""
        self._closed.set()
        self._cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A stream that is dropped half-read must not keep the server busy.
        self.close()

    def _cancel(self) -> None:
        if self._responses is not None:
            self._responses.close()

    def _receive(self) -> Outputs | None:
        """The next response, of a further attempt where the one before failed and may be repeated."""
        while self._responses is not None and not self._closed.is_set():
            try:
                return self._responses.receive()
            except ClientError as error:
                if self._closed.is_set() or self._output.is_complete:
                    break
                if not self._output.is_empty:
                    raise
                self._pause_after(error)
            self._send()
        return None

    def _send(self) -> None:
        while not self._closed.is_set():
            try:
                self._responses = self._transport.send(self._request)
            except ClientError as error:
                self._pause_after(error)
                continue
            if self._closed.is_set():  # by another thread, while it was being sent
                self._responses.close()
            return

    def _pause_after(self, error: ClientError) -> None:
        self._closed.wait(self._request.pause_after(error))
