"""What a server did and holds, worked out from scrapes of its metrics."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spec_cascade_client.scrape import Scrape

REQUESTS = "spec_cascade_requests_total"
OUTPUT_TOKENS = "spec_cascade_num_output_tokens_total"
DRAFT_TOKENS = "spec_cascade_num_draft_tokens_total"
ACCEPTED_TOKENS = "spec_cascade_num_accepted_tokens_total"
DEFERRED_TOKENS = "spec_cascade_num_deferred_tokens_total"
DRAFTER_FAILURES = "spec_cascade_num_drafter_failures_total"
TIME_TO_FIRST_TOKEN = "spec_cascade_time_to_first_token_seconds"
INTER_TOKEN_LATENCY = "spec_cascade_inter_token_latency_seconds"
QUEUE_TIME = "spec_cascade_queue_time_seconds"
RUNNING = "spec_cascade_requests_running"
WAITING = "spec_cascade_requests_waiting"
SLOTS = "spec_cascade_slots"
COST_RATIO = "spec_cascade_cost_ratio"
KV_USED_TOKENS = "spec_cascade_kv_cache_used_tokens"
KV_MAX_TOKENS = "spec_cascade_kv_cache_max_tokens"

# Counters and the labels by which they are read.
LABELS = {
    REQUESTS: ("finish_reason", "rule"),
    OUTPUT_TOKENS: ("source",),
    DRAFT_TOKENS: ("rule",),
    ACCEPTED_TOKENS: ("rule",),
    DEFERRED_TOKENS: ("rule",),
    DRAFTER_FAILURES: (),
}
HISTOGRAMS = (TIME_TO_FIRST_TOKEN, INTER_TOKEN_LATENCY, QUEUE_TIME)
PERCENTILES = (50, 90, 99)
GAUGES = (RUNNING, WAITING, SLOTS, KV_USED_TOKENS, KV_MAX_TOKENS, COST_RATIO)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Times in seconds, counted in buckets.

    Attributes:
        counts: Times up to each bound, rising, by the bound; the last bound is infinite.
    """

    counts: dict[float, float]

    @classmethod
    def of(cls, scrape: Scrape, name: str) -> Histogram:
        """Read one from a scrape."""
        counts = {float(bound): count for bound, count in scrape.by(f"{name}_bucket", "le").items()}
        return cls(dict(sorted(counts.items())))

    @property
    def count(self) -> int:
        """How many times."""
        return round(max(self.counts.values(), default=0.0))

    def quantile(self, part: float) -> float | None:
        """The time that this part of the times does not exceed, as Prometheus's ``histogram_quantile`` has it.

        Times are taken to lie evenly within a bucket. Beyond the last finite bound it is that bound; without any time,
        None.
        """
        wanted = part * self.count
        lower, below = 0.0, 0.0
        for bound, count in self.counts.items():
            if count >= wanted and count > below:
                return lower if math.isinf(bound) else lower + (bound - lower) * (wanted - below) / (count - below)
            lower, below = bound, count
        return None

    def __sub__(self, earlier: Histogram) -> Histogram:
        return Histogram({bound: count - earlier.counts.get(bound, 0.0) for bound, count in self.counts.items()})

    def as_dict(self) -> dict[str, float | None]:
        """Its count and quantiles."""
        return {"count": self.count, **{f"p{part}": self.quantile(part / 100) for part in PERCENTILES}}


@dataclass(frozen=True, slots=True)
class Counts:
    """What was counted in a time.

    Attributes:
        seconds: How long that was; None for all the time since the server's start, of which it does not tell.
        counters: By the counter, then by the values of its labels.
        histograms: By name.
    """

    seconds: float | None
    counters: dict[str, Counter[tuple[str, ...]]]
    histograms: dict[str, Histogram]

    @classmethod
    def of(cls, scrape: Scrape) -> Counts:
        """All since the server's start."""
        counters = {}
        for name, labels in LABELS.items():
            counters[name] = Counter[tuple[str, ...]]()
            for sample in scrape.samples.get(name, ()):
                counters[name][tuple(sample.labels.get(label, "") for label in labels)] += round(sample.value)
        return cls(None, counters, {name: Histogram.of(scrape, name) for name in HISTOGRAMS})

    def since(self, earlier: Counts, seconds: float) -> Counts | None:
        """What came between two scrapes; None where the server began anew in between."""
        counters = {}
        for name, counter in self.counters.items():
            counters[name] = Counter(counter)
            counters[name].subtract(earlier.counters[name])
        if any(value < 0 for counter in counters.values() for value in counter.values()):
            return None
        histograms = {name: histogram - earlier.histograms[name] for name, histogram in self.histograms.items()}
        return Counts(seconds, counters, histograms)

    def by(self, name: str, label: str) -> dict[str, int]:
        """A counter, summed for each value of one of its labels; those that are 0 are left out."""
        sums: Counter[str] = Counter()
        place = LABELS[name].index(label)
        for values, count in self.counters[name].items():
            sums[values[place]] += count
        return {value: count for value, count in sorted(sums.items()) if count}

    def total(self, name: str) -> int:
        """A counter, summed over its labels."""
        return self.counters[name].total()

    @property
    def tokens_per_target_call(self) -> float | None:
        """Emitted tokens per round that emitted some, each of which has one of the two times."""
        rounds = self.histograms[TIME_TO_FIRST_TOKEN].count + self.histograms[INTER_TOKEN_LATENCY].count
        return ratio(self.total(OUTPUT_TOKENS), rounds)

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over drafted tokens of the requests that ended."""
        return ratio(self.total(ACCEPTED_TOKENS), self.total(DRAFT_TOKENS))

    @property
    def rules(self) -> dict[str, RuleCounts]:
        """By rule, of the requests that ended."""
        counted = [self.by(name, "rule") for name in (REQUESTS, DRAFT_TOKENS, ACCEPTED_TOKENS, DEFERRED_TOKENS)]
        rules = sorted(set().union(*counted))
        return {rule: RuleCounts(*(counts.get(rule, 0) for counts in counted)) for rule in rules}

    def as_dict(self) -> dict[str, Any]:
        """For JSON; times in seconds, None where there was nothing to divide by."""
        rates = {}
        if self.seconds is not None:
            rates["seconds"] = self.seconds
            rates["requests_per_second"] = self.total(REQUESTS) / self.seconds
            rates["tokens_per_second"] = self.total(OUTPUT_TOKENS) / self.seconds
        return {
            **rates,
            "requests": self.by(REQUESTS, "finish_reason"),
            "output_tokens": self.by(OUTPUT_TOKENS, "source"),
            "tokens_per_target_call": self.tokens_per_target_call,
            "acceptance_rate": self.acceptance_rate,
            "rules": {
                rule: {**asdict(counts), "acceptance_rate": counts.acceptance_rate}
                for rule, counts in self.rules.items()
            },
            "drafter_failures": self.total(DRAFTER_FAILURES),
            "time_to_first_token": self.histograms[TIME_TO_FIRST_TOKEN].as_dict(),
            "inter_token_latency": self.histograms[INTER_TOKEN_LATENCY].as_dict(),
            "queue_time": self.histograms[QUEUE_TIME].as_dict(),
        }


@dataclass(frozen=True, slots=True)
class RuleCounts:
    """What became of the requests of one rule."""

    requests: int
    draft_tokens: int
    accepted_tokens: int
    deferred_tokens: int

    @property
    def acceptance_rate(self) -> float | None:
        """Accepted over drafted tokens."""
        return ratio(self.accepted_tokens, self.draft_tokens)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a server holds at a moment: requests, slots and tokens, and the measured cost ratio (0: not yet)."""

    running: int
    waiting: int
    slots: int
    kv_used_tokens: int
    kv_max_tokens: int
    cost_ratio: float

    @classmethod
    def of(cls, scrape: Scrape) -> Holdings:
        """Read them from a scrape."""
        return cls(
            running=round(scrape.total(RUNNING)),
            waiting=round(scrape.total(WAITING)),
            slots=round(scrape.total(SLOTS)),
            kv_used_tokens=round(scrape.total(KV_USED_TOKENS)),
            kv_max_tokens=round(scrape.total(KV_MAX_TOKENS)),
            cost_ratio=scrape.total(COST_RATIO),
        )


@dataclass(frozen=True, slots=True)
class Activity:
    """One look at a server.

    Attributes:
        now: What it holds.
        total: What it counted since it started.
        lately: What it counted since the look before; None at the first one.
    """

    now: Holdings
    total: Counts
    lately: Counts | None = None

    @classmethod
    def of(cls, scrape: Scrape, earlier: Activity | None = None, seconds: float = 0.0) -> Activity:
        """A look, ``seconds`` after an earlier one."""
        total = Counts.of(scrape)
        lately = None if earlier is None else total.since(earlier.total, seconds)
        return cls(Holdings.of(scrape), total, lately)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        lately = None if self.lately is None else self.lately.as_dict()
        return {"now": asdict(self.now), "total": self.total.as_dict(), "lately": lately}


def ratio(part: float, whole: float) -> float | None:
    """None where there is nothing to divide by."""
    return part / whole if whole else None
