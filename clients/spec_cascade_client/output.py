"""From the responses to one request to its chunks and its result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client.errors import ServerError
from spec_cascade_client.results import Chunk, Result, Statistics
from spec_cascade_client.wire import read_chunk, read_statistics

if TYPE_CHECKING:
    from spec_cascade_client.wire import Outputs


class Output:
    """What has arrived of one request's output."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._statistics = Statistics()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has arrived: the request may then be sent again."""
        return not self._chunks

    def add(self, outputs: Outputs) -> Chunk:
        """Read the next response.

        Raises:
            ServerError: It breaks the contract, or is not the one that is due.
        """
        chunk = read_chunk(outputs, len(self._chunks))
        if chunk.index != len(self._chunks):
            raise ServerError(f"response {chunk.index} arrived where {len(self._chunks)} was due")
        if chunk.finish_reason:
            self._statistics = read_statistics(outputs)
        self._chunks.append(chunk)
        return chunk

    @property
    def is_complete(self) -> bool:
        """Whether the last response has arrived: what happens after it changes nothing."""
        return bool(self._chunks and self._chunks[-1].finish_reason)

    def check_complete(self) -> None:
        """Call when there are no more responses.

        Raises:
            ServerError: The last one is missing, and text with it.
        """
        if not self.is_complete:
            raise ServerError("the server ended the stream before the output was complete")

    def result(self) -> Result:
        """The whole of it."""
        return Result.from_chunks(self._chunks, self._statistics)
