"""The chunks of one request as they arrive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client.errors import ServerError
from spec_cascade_client.results import Chunk, Result, Statistics
from spec_cascade_client.wire import read_chunk, read_statistics

if TYPE_CHECKING:
    from typing_extensions import Self

    from spec_cascade_client.wire import Responses


class Stream:
    """Iterate to receive each chunk once, in order; leave the ``with`` block, or `close`, to cancel the rest.

    Iterating and `result` raise `ClientError` when the server refuses, fails, goes away, or is silent for too
    long.
    """

    def __init__(self, responses: Responses) -> None:
        self._responses = responses
        self._incoming = iter(responses)
        self._chunks: list[Chunk] = []
        self._statistics = Statistics()
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        try:
            outputs = next(self._incoming)
        except StopIteration:
            self._check_complete()
            raise
        try:
            chunk = read_chunk(outputs, len(self._chunks))
            if chunk.index != len(self._chunks):
                raise ServerError(f"response {chunk.index} arrived where {len(self._chunks)} was due")
            if chunk.finish_reason:
                self._statistics = read_statistics(outputs)
        except ServerError:
            self._responses.close()
            raise
        self._chunks.append(chunk)
        return chunk

    def result(self) -> Result:
        """Read what is left and return the whole."""
        for _ in self:
            pass
        return Result.from_chunks(self._chunks, self._statistics)

    def close(self) -> None:
        """Cancel what is left on the server. Idempotent; any thread may call it, and ends the iteration."""
        self._closed = True
        self._responses.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        # A stream that is dropped half-read must not keep the server busy.
        self.close()

    def _check_complete(self) -> None:
        """A stream that ends before its last chunk has lost text, unless this side cut it."""
        finished = self._chunks and self._chunks[-1].finish_reason
        if not finished and not self._closed:
            raise ServerError("the server ended the stream before the output was complete")
