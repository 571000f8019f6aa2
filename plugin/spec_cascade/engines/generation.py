"""What a client holds of the request that it has submitted, whichever engine runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spec_cascade.decoding.request import RoundOutput
    from spec_cascade.decoding.sequence import Sequence


class SequenceGeneration:
    """Implements `engines.protocol.Generation` over the chunks of a sequence.

    Args:
        sequence: Of the request.
        cancel: Has the engine drop it; any thread may call it, at any time.
    """

    def __init__(self, sequence: Sequence, cancel: Callable[[], object]) -> None:
        self._sequence = sequence
        self._cancel = cancel
        self._ended = False

    def __iter__(self) -> Iterator[RoundOutput]:
        """Block for each round's output until the one with a finish reason."""
        while not self._ended:
            output = self._sequence.outputs.get()
            self._ended = output.finish_reason is not None
            yield output

    def cancel(self) -> None:
        """Drop the request before its next round."""
        self._cancel()
