"""What must hold at the end of the soak."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.statistics import EngineStatistics
    from tests.soak.clients import Tally
    from tests.soak.rig import Rig

GROWTH_LIMIT_MIB = 16.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The state at one moment.

    Attributes:
        seconds: Since the start.
        submitted: Requests that the engine took so far.
        refused: Requests that found the queue full so far.
        tokens: Tokens that clients have read so far.
        failures: Rounds that lost their drafts to a failing drafter so far.
        rss_mib: Resident memory of the process.
        running: Slots in use.
        waiting: Requests in the queue.
    """

    seconds: float
    submitted: int
    refused: int
    tokens: int
    failures: int
    rss_mib: float
    running: int
    waiting: int

    def line(self) -> str:
        """For a person."""
        return (
            f"{self.seconds:7.1f} s  {self.submitted:8d} requests  {self.refused:8d} refused  {self.tokens:9d} tokens  "
            f"{self.failures:5d} drafter failures  {self.rss_mib:7.1f} MiB  "
            f"{self.running:2d} running  {self.waiting:2d} waiting"
        )


def growth_mib(samples: Seq[Sample]) -> float:
    """Memory gained in the second half."""
    return gained([sample.rss_mib for sample in samples])


def gained(values: Seq[float]) -> float:
    """What a figure gained in the second half: median of the last quarter minus median of the second one.

    The first quarter is left out: allocators and caches fill in it.
    """
    quarter = len(values) // 4
    if quarter == 0:
        return 0.0
    return median(values[-quarter:]) - median(values[quarter : 2 * quarter])


def broken_promises(rig: Rig, tally: Tally, statistics: EngineStatistics, samples: Seq[Sample]) -> list[str]:
    """In words; an empty list is a pass."""
    counts = tally.counts
    ended = sum(statistics.num_finished.values())
    grown = growth_mib(samples)
    totals = statistics.totals
    checks = {
        f"{statistics.num_running} slots are in use": statistics.num_running == 0,
        f"{statistics.num_waiting} requests wait": statistics.num_waiting == 0,
        f"{rig.cached_tokens} tokens are cached": rig.cached_tokens == 0,
        f"{ended} requests ended of {counts['submitted']}": ended == counts["submitted"],
        f"{counts['tokens']} tokens arrived, {totals.num_output_tokens} were counted": (
            counts["tokens"] <= totals.num_output_tokens
        ),
        "the acceptance histogram does not add up to the steps": (
            sum(totals.acceptance_histogram) == totals.num_spec_steps
        ),
        "the acceptance histogram does not add up to the accepted tokens": (
            sum(j * n for j, n in enumerate(totals.acceptance_histogram)) == totals.num_accepted_draft_tokens
        ),
        f"{counts['error']} errors after {rig.target.num_raised} failed rounds": (
            counts["error"] <= rig.target.num_raised * statistics.num_slots
        ),
        f"memory grew by {grown:.1f} MiB in the second half": grown < GROWTH_LIMIT_MIB,
    }
    return [*tally.broken, *(what for what, holds in checks.items() if not holds)]


def report(rig: Rig, tally: Tally, samples: Seq[Sample], broken: list[str]) -> dict[str, Any]:
    """For a file."""
    statistics = rig.engine.statistics()
    return {
        "seconds": samples[-1].seconds,
        "counts": dict(tally.counts),
        "num_finished": statistics.num_finished,
        "num_rounds": statistics.num_rounds,
        "num_drafter_failures": statistics.num_drafter_failures,
        "num_target_failures": rig.target.num_raised,
        "draft_acceptance_rate": statistics.totals.draft_acceptance_rate,
        "rss_first_mib": samples[0].rss_mib,
        "rss_last_mib": samples[-1].rss_mib,
        "growth_mib": growth_mib(samples),
        "broken": broken,
        "samples": [asdict(sample) for sample in samples],
    }
