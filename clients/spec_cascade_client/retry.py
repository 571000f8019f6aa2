"""When a request is sent again."""

from __future__ import annotations

import random
from dataclasses import dataclass

from spec_cascade_client.clock import checked_seconds
from spec_cascade_client.errors import BusyError, InvalidRequestError, NoConnectionError

SAFE_TO_REPEAT = (NoConnectionError, BusyError)
"""The server did not see the request, or says itself that it may come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """How often to send a request that the server did not take, and how long to wait in between.

    Only what is safe is repeated: `NoConnectionError` and `BusyError`, before the first chunk. A connection that broke
    is not: the request may be what broke the server.

    Attributes:
        attempts: How often a request is sent at most; 1 never repeats.
        pause: Seconds before the second attempt; each pause is twice the one before it.
        longest_pause: Seconds that no pause exceeds.
    """

    attempts: int = 3
    pause: float = 0.1
    longest_pause: float = 2.0

    def __post_init__(self) -> None:
        if not isinstance(self.attempts, int) or self.attempts < 1:
            raise InvalidRequestError(f"attempts = {self.attempts!r}: must be an integer >= 1")
        checked_seconds("pause", self.pause)
        checked_seconds("longest_pause", self.longest_pause)

    def pause_after(self, failures: int) -> float:
        """Seconds to wait after this many failures, from half the pause to all of it.

        By chance: clients that were refused together do not come back together.
        """
        # More doublings than these would only overflow.
        doubled = self.pause * 2.0 ** min(failures - 1, 60)
        return min(self.longest_pause, doubled) * random.uniform(0.5, 1)
