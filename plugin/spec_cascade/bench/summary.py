"""From runs to figures: medians over the repetitions, and ratios within each of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spec_cascade.bench.samples import Reply, Run


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of some values."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        known = list(values)
        return cls(median(known), min(known), max(known))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One subject at one number of streams.

    Attributes:
        subject: Its name.
        streams: Tasks at a time.
        tokens_per_second: Over the repetitions, of all streams together.
        ratio: Its tokens/s over the baseline's, in the same repetition at the same number of streams.
        tokens_per_target_call: Over all repetitions.
        acceptance: Accepted over drafted tokens; None where nothing was drafted, or the subject does not tell.
        first_token: Seconds, median over all tasks.
        token_gap: Seconds per token after the first chunk, median over all tokens; None where there is no such token.
        same_tokens: Share of the outputs that are the baseline's, token for token.
        parts: Share of the rounds' time by the part of a round; empty where the subject does not tell.
    """

    subject: str
    streams: int
    tokens_per_second: Spread
    ratio: Spread | None
    tokens_per_target_call: float
    acceptance: float | None
    first_token: float
    token_gap: float | None
    same_tokens: float | None
    parts: dict[str, float]


Key = tuple[str, int]


def by_subject(runs: Sequence[Run]) -> dict[Key, dict[int, Run]]:
    """Subject and streams, in the order in which they first ran, to the runs by repetition."""
    found: dict[Key, dict[int, Run]] = {}
    for run in runs:
        found.setdefault((run.subject, run.streams), {})[run.repetition] = run
    return found


def ratio(runs: dict[int, Run], against: dict[int, Run]) -> Spread:
    """Ratios of tokens/s within each repetition."""
    return Spread.of(run.tokens_per_second / against[number].tokens_per_second for number, run in runs.items())


def same_tokens(runs: dict[int, Run], against: dict[int, Run]) -> float:
    """Share of the outputs that are equal, token for token."""
    pairs = [
        mine.token_ids == theirs.token_ids
        for number, run in runs.items()
        for mine, theirs in zip(run.replies, against[number].replies, strict=True)
    ]
    return sum(pairs) / len(pairs)


def summarise(runs: Sequence[Run], baseline: str, subjects: Sequence[str]) -> list[Line]:
    """One line for each number of streams and subject, the subjects in the order given."""
    found = by_subject(runs)
    keys = sorted(found, key=lambda key: (key[1], subjects.index(key[0])))
    return [_line(key, found[key], found.get((baseline, key[1]))) for key in keys]


def _line(key: Key, runs: dict[int, Run], baseline: dict[int, Run] | None) -> Line:
    replies = [reply for run in runs.values() for reply in run.replies]
    gaps = [gap for reply in replies for gap in reply.token_gaps]
    drafted = sum(reply.drafted for reply in replies)
    return Line(
        subject=key[0],
        streams=key[1],
        tokens_per_second=Spread.of(run.tokens_per_second for run in runs.values()),
        ratio=None if baseline is None else ratio(runs, baseline),
        tokens_per_target_call=sum(len(r.token_ids) for r in replies) / sum(r.target_calls for r in replies),
        acceptance=sum(reply.accepted for reply in replies) / drafted if drafted else None,
        first_token=median(reply.first_token for reply in replies),
        token_gap=median(gaps) if gaps else None,
        same_tokens=None if baseline is None else same_tokens(runs, baseline),
        parts=_shares(replies),
    )


def _shares(replies: Sequence[Reply]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for reply in replies:
        seconds.update(reply.parts)
    total = sum(seconds.values())
    return {part: taken / total for part, taken in seconds.items()} if total else {}
