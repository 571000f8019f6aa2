"""What rounds cost on this machine, learnt from the rounds themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.statistics import Timings

_MEMORY = 256
"""Samples after which an old one has lost two thirds of its weight."""
_OUTLIER = 4.0
"""A sample that took this many times what was expected counts as this many times: something else ran."""


@dataclass(slots=True)
class Line:
    """Seconds over tokens, ``a + b n`` with a, b >= 0: least squares with exponential forgetting.

    A forward's time is nearly such a line on every machine: what it costs to read the weights, and what each further
    token adds.
    """

    weight: float = 0.0
    mean_tokens: float = 0.0
    mean_seconds: float = 0.0
    variance: float = 0.0
    covariance: float = 0.0

    def add(self, tokens: float, seconds: float) -> None:
        """Learn from one measurement."""
        if self.weight >= 4:
            seconds = min(seconds, _OUTLIER * self.seconds(tokens))
        self.weight = self.weight * (1 - 1 / _MEMORY) + 1
        share = 1 / self.weight
        off, late = tokens - self.mean_tokens, seconds - self.mean_seconds
        self.mean_tokens += share * off
        self.mean_seconds += share * late
        self.variance = (1 - share) * (self.variance + share * off * off)
        self.covariance = (1 - share) * (self.covariance + share * off * late)

    def seconds(self, tokens: float) -> float:
        """What ``tokens`` tokens are expected to take; 0 before the first measurement."""
        if self.variance <= 1e-9:
            return self.mean_seconds
        slope = max(0.0, self.covariance / self.variance)
        base = self.mean_seconds - slope * self.mean_tokens
        if base < 0:
            return self.mean_seconds / self.mean_tokens * tokens
        return base + slope * tokens


@dataclass(slots=True)
class RoundCosts:
    """The three parts of a round.

    Attributes:
        draft: One forward of the drafter, over the tokens in it.
        score: The target's forward, over the tokens in it.
        verify: Judging, over the rows; committing counts with the host.
    """

    draft: Line = field(default_factory=Line)
    score: Line = field(default_factory=Line)
    verify: Line = field(default_factory=Line)

    @property
    def known(self) -> bool:
        """Whether both models have been measured."""
        return self.draft.weight > 0 and self.score.weight > 0

    def add(self, lengths: Seq[int], seconds: Timings) -> None:
        """Learn from a round in which the sequences drafted so many tokens each."""
        rows, steps = len(lengths) + sum(lengths), max(lengths)
        self.score.add(rows, seconds.score)
        self.verify.add(rows, seconds.verify)
        if steps:
            self.draft.add(sum(lengths) / steps, seconds.draft / steps)

    def round_seconds(self, lengths: Seq[int]) -> float:
        """A round in which the sequences draft so many tokens each."""
        rows = len(lengths) + sum(lengths)
        at_length = Counter(lengths)
        drafting, drafts = len(lengths), 0.0
        for k in range(max(lengths, default=0)):
            drafting -= at_length[k]
            drafts += self.draft.seconds(drafting)
        return drafts + self.score.seconds(rows) + self.verify.seconds(rows)

    @property
    def ratio(self) -> float:
        """c: one drafter forward over one target forward, each with one token; 0 before both were measured."""
        return self.draft.seconds(1) / self.score.seconds(1) if self.known else 0.0
