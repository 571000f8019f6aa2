"""The questions that a measurement answers, each as one ratio of paired runs."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from spec_cascade.bench.summary import by_subject, ratio, same_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.bench.samples import Run
    from spec_cascade.bench.summary import Key, Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineup:
    """The subjects' names, by what they are.

    Attributes:
        target_only: The engine without drafts: what all others are measured against.
        rules: The engine with drafts.
        no_drafter: The engine opened without a drafter; empty where the engine has none anyway.
        generate: transformers' `generate`, by dtype.
        assisted: transformers with drafts.
    """

    target_only: str
    rules: tuple[str, ...] = ()
    no_drafter: str = ""
    generate: tuple[str, ...] = ()
    assisted: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All, in the order of tables."""
        bare = (self.no_drafter,) if self.no_drafter else ()
        return (self.target_only, *bare, *self.rules, *self.generate, *self.assisted)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Tokens/s of one subject over another's, paired by repetition.

    Attributes:
        subject: The numerator.
        streams: Its tasks at a time.
        against: The denominator.
        against_streams: Its tasks at a time.
        ratio: Over the repetitions.
        same_tokens: Share of the outputs that are equal, token for token.
    """

    subject: str
    streams: int
    against: str
    against_streams: int
    ratio: Spread
    same_tokens: float

    def __str__(self) -> str:
        return f"{_words(self.subject, self.streams)} over {_words(self.against, self.against_streams)}"


def compare(runs: Sequence[Run], lineup: Lineup) -> list[Comparison]:
    """Those of these that were measured, in this order.

    Target only over `generate` in its better dtype; each rule over the better assisted generation; target only over an
    engine that was opened without a drafter, which shows what "off" costs; the most streams over one.
    """
    found = by_subject(runs)
    pairs: list[tuple[Key, Key]] = []
    for subjects, peers in (((lineup.target_only,), lineup.generate), (lineup.rules, lineup.assisted)):
        best = max((key for key in found if key[0] in peers), key=lambda key: _speed(found[key]), default=None)
        if best is not None:
            pairs += [((subject, best[1]), best) for subject in subjects]
    streams = sorted({key[1] for key in found})
    pairs += [((lineup.target_only, n), (lineup.no_drafter, n)) for n in streams]
    most = streams[-1]
    pairs += [((name, most), (name, 1)) for name in (lineup.target_only, *lineup.rules) if most > 1]
    return [_comparison(found, mine, theirs) for mine, theirs in pairs if mine in found and theirs in found]


def _comparison(found: dict[Key, dict[int, Run]], mine: Key, theirs: Key) -> Comparison:
    return Comparison(
        subject=mine[0],
        streams=mine[1],
        against=theirs[0],
        against_streams=theirs[1],
        ratio=ratio(found[mine], found[theirs]),
        same_tokens=same_tokens(found[mine], found[theirs]),
    )


def _speed(runs: dict[int, Run]) -> float:
    return median(run.tokens_per_second for run in runs.values())


def _words(subject: str, streams: int) -> str:
    return f"{subject} ({streams} at a time)" if streams > 1 else subject
