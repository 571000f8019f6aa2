"""The one thing that serving knows of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.decoding.request import GenerationRequest, RoundOutput
    from spec_cascade.decoding.statistics import EngineStatistics
    from spec_cascade.rules import DeferralRule


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine accepts.

    Attributes:
        max_batch_size: Requests decoded at a time.
        max_seq_len: Prompt and output tokens of one request.
        max_draft_length: Largest K.
        max_queue_size: Requests that may wait; one more is refused with `QueueFullError`.
        vocab_size: Token ids are below this.
        default_rule: The rule of a request that names none.
        default_draft_length: The K of a request that names none; `decoding.request.AUTO` picks it round by round.
    """

    max_batch_size: int
    max_seq_len: int
    max_draft_length: int
    max_queue_size: int
    vocab_size: int
    default_rule: DeferralRule
    default_draft_length: int


class Generation(Protocol):
    """A submitted request: iterate to receive one output per round, the last with a finish reason."""

    def __iter__(self) -> Iterator[RoundOutput]:
        """Block until the next round's output; ends after the output that has a finish reason."""

    def cancel(self) -> None:
        """Ask the engine to drop the request, at any time and from any thread; its last output says CANCELLED."""


class Engine(Protocol):
    """A running engine: thread-safe, decodes in a thread of its own."""

    @property
    def limits(self) -> EngineLimits:
        """What the engine accepts."""

    def submit(self, request: GenerationRequest) -> Generation:
        """Queue a request.

        Raises:
            ConfigError: The request exceeds `limits` (the field is named).
            QueueFullError: Too many requests wait.
            EngineError: The engine is closed.
        """

    def statistics(self) -> EngineStatistics:
        """A snapshot of the totals since start."""

    def close(self) -> None:
        """Cancel what runs, stop the thread, free the memory. Idempotent."""
