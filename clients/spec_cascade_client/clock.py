"""How long a request waits."""

from __future__ import annotations

import math
import time

from spec_cascade_client.errors import ClientError, DeadlineError, IdleTimeoutError, InvalidRequestError

LONGEST = 1e6
"""Seconds that a time may be: what sockets, queues and event loops all can wait."""


def checked_seconds(name: str, seconds: float) -> float:
    """Return a time that a caller set.

    Raises:
        InvalidRequestError: It is not a number in (0, `LONGEST`].
    """
    if not (isinstance(seconds, (int, float)) and 0 < seconds <= LONGEST):
        raise InvalidRequestError(f"{name} = {seconds!r:.80}: must be a number of seconds in (0, {LONGEST:.0f}]")
    return seconds


class Clock:
    """Bounds the waits of one request: each of them, and, from the first one on, all of it.

    Args:
        url: Whose silence it is.
        silence: Seconds that one wait may take.
        deadline: Seconds that the request may take, further attempts included; None is no limit.
    """

    def __init__(self, url: str, silence: float, deadline: float | None) -> None:
        self._url = url
        self._silence = silence
        self._deadline = deadline
        self._end: float | None = None
        self._is_last_wait = False
        self._wait_end = 0.0

    def left(self) -> float:
        """Seconds until the deadline, infinite without one."""
        if self._deadline is None:
            return math.inf
        if self._end is None:
            self._end = time.monotonic() + self._deadline
        return self._end - time.monotonic()

    def wait(self, at_most: float = math.inf) -> float:
        """Seconds that the wait which now begins may take.

        Raises:
            DeadlineError: There is no time left.
        """
        left, wait = self.left(), min(self._silence, at_most)
        self._is_last_wait = left <= wait
        if left <= 0:
            raise self.expired()
        self._wait_end = time.monotonic() + min(left, wait)
        return min(left, wait)

    def rest(self) -> float:
        """Seconds left of the wait that began last.

        Raises:
            ClientError: There are none.
        """
        rest = self._wait_end - time.monotonic()
        if rest <= 0:
            raise self.expired()
        return rest

    def check_deadline(self) -> None:
        """Call when a wait has failed.

        Raises:
            DeadlineError: There was no time for more.
        """
        if self._deadline is not None and self.left() <= 0:
            raise DeadlineError(self._deadline)

    def expired(self) -> ClientError:
        """The error for the last wait, which brought nothing."""
        if self._is_last_wait and self._deadline is not None:
            return DeadlineError(self._deadline)
        return IdleTimeoutError(self._url, self._silence)
