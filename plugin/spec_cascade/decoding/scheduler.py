"""Who runs: a bounded queue of waiting requests, and the live ones in neighbouring slots."""

from __future__ import annotations

import time
from bisect import insort
from threading import Condition
from typing import TYPE_CHECKING

from spec_cascade.errors import QueueFullError

if TYPE_CHECKING:
    from spec_cascade.decoding.sequence import Sequence


class Scheduler:
    """Admits waiting sequences as soon as a slot is free: by priority, equal ones first come first served.

    Any thread may `add` and `wake`; the rest belongs to the loop's thread. The live sequences are ``running``, and a
    sequence's slot is its place in that list.
    """

    def __init__(self, *, max_batch_size: int, max_queue_size: int) -> None:
        self.running: list[Sequence] = []
        # In the order in which they are admitted.
        self._waiting: list[Sequence] = []
        self._changed = Condition()
        self._max_batch_size = max_batch_size
        self._max_queue_size = max_queue_size

    @property
    def num_waiting(self) -> int:
        """Requests without a slot."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        return not self.running and not self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            QueueFullError: ``max_queue_size`` sequences wait and no slot is free for one of them.
        """
        with self._changed:
            free = self._max_batch_size - len(self.running)
            if len(self._waiting) >= self._max_queue_size + free:
                raise QueueFullError(
                    f"{len(self._waiting)} requests wait, the limit is {self._max_queue_size}: try again later"
                )
            sequence.submitted = time.monotonic()
            insort(self._waiting, sequence, key=_urgency)
            self._changed.notify()

    def wake(self) -> None:
        """Let a waiting loop look again: something was cancelled, or the engine closes."""
        with self._changed:
            self._changed.notify()

    def wait(self, timeout: float) -> None:
        """Block until there may be work, at most ``timeout`` seconds."""
        with self._changed:
            if self.is_idle:
                self._changed.wait(timeout)

    def admit(self) -> None:
        """Give free slots to waiting sequences."""
        with self._changed:
            while self._waiting and len(self.running) < self._max_batch_size:
                sequence = self._waiting.pop(0)
                _count_wait(sequence)
                sequence.slot = len(self.running)
                self.running.append(sequence)

    def drop_waiting(self, *, everything: bool = False) -> list[Sequence]:
        """Remove and return the waiting sequences that must end, or all of them."""
        with self._changed:
            dropped = [s for s in self._waiting if everything or s.end_reason is not None]
            for sequence in dropped:
                self._waiting.remove(sequence)
                _count_wait(sequence)
        return dropped

    def release(self, sequence: Sequence) -> tuple[int, int]:
        """Take a live sequence out; the last one takes its slot, so that no gap is left.

        Returns:
            The slot that was vacated last and the slot it was moved to; equal where nothing had to move.
        """
        last = self.running.pop()
        source, destination = last.slot, sequence.slot
        if last is not sequence:
            last.slot = destination
            self.running[destination] = last
        sequence.slot = -1
        return source, destination


def _urgency(sequence: Sequence) -> float:
    return -sequence.request.priority


def _count_wait(sequence: Sequence) -> None:
    sequence.statistics.queue_seconds = time.monotonic() - sequence.submitted
