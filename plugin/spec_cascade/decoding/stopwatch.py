"""Where a round's time goes."""

from __future__ import annotations

import time
from typing import Literal

import torch

from spec_cascade.decoding.statistics import Timings

Part = Literal["draft", "score", "verify", "host"]


class Stopwatch:
    """Runs from its making; each lap is given to a part of the round.

    A GPU works behind the host's back: there, drafting and scoring are timed by marks on its stream, which are read
    when the round has waited for its verdict.

    Args:
        device: Where the models run.
    """

    def __init__(self, device: torch.device) -> None:
        self.timings = Timings()
        self._last = time.perf_counter()
        self._marks: list[torch.cuda.Event] | None = [] if device.type == "cuda" else None

    def lap(self, part: Part) -> float:
        """Give the time since the last lap to ``part``; return it in seconds.

        The laps of a round come in the order host, draft, score, verify, host. On a GPU, draft and score return 0 and
        are known with verify.
        """
        if self._marks is not None and part in ("draft", "score"):
            self._mark()
            return 0.0
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if self._marks is not None and part == "verify":
            seconds -= self._read(self._marks)
        elif self._marks is not None and not self._marks:
            self._mark()
        setattr(self.timings, part, getattr(self.timings, part) + max(seconds, 0.0))
        return seconds

    def _mark(self) -> None:
        if self._marks is not None:
            self._marks.append(torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]
            self._marks[-1].record()

    def _read(self, marks: list[torch.cuda.Event]) -> float:
        """Fill in draft and score; return their sum in seconds."""
        begun, drafted, scored = marks
        # Where the round had a verdict, that came later; a round of prompts alone waits here.
        if not scored.query():  # type: ignore[no-untyped-call]
            scored.synchronize()
        self.timings.draft += begun.elapsed_time(drafted) / 1000
        self.timings.score += drafted.elapsed_time(scored) / 1000
        return self.timings.draft + self.timings.score
