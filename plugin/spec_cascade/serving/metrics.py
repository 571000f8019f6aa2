"""What the cascade model did, as metrics; every value was on the host already.

Requests are counted by the threads that forward them, and everything is published by one: metrics that several threads
update bring the whole server down. An update is a message to the server's process, so counts are summed up in between.
"""

from __future__ import annotations

import time
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from spec_cascade.decoding.request import FinishReason, TokenSource
from spec_cascade.rules.guards import Guard
from spec_cascade.rules.registry import BY_NAME
from spec_cascade.serving import metric_families as families

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_cascade.decoding.request import RoundOutput
    from spec_cascade.decoding.statistics import EngineStatistics, RequestStatistics
    from spec_cascade.rules import DeferralRule
    from spec_cascade.serving.metric_families import Family

    Series = tuple[Family, tuple[str, ...]]  # with the values of its labels

MOST_USER_RULES = 16
"""Rules that are not built in and have a label of their own; the others share one."""
OTHER_RULES = "other"
_EMITTED: dict[TokenSource, Series] = {
    source: (families.OUTPUT_TOKENS, (source.name.lower(),)) for source in TokenSource
}


class Metric(Protocol):
    """One series."""

    def increment(self, value: float) -> None:
        """Add to a counter; not less than 0."""

    def set(self, value: float) -> None:
        """Set a gauge."""

    def observe(self, value: float) -> None:
        """Count a value into a histogram."""


class Registry(Protocol):
    """Where metrics are published; used by one thread at a time."""

    def metric(self, family: Family, *labels: str) -> Metric:
        """The series of these label values, in the order of the family's labels; made when first asked for."""

    def close(self) -> None:
        """Take all metrics away."""


class CascadeMetrics:
    """The metrics of one engine.

    Any thread may make a `RequestMeter` and use it; the rest belongs to one thread at a time.

    Args:
        registry: None publishes nothing.
        since: What the engine did before there were clients, which is not counted; None is nothing.
    """

    def __init__(self, registry: Registry | None, since: EngineStatistics | None = None) -> None:
        self._registry = registry
        self._lock = Lock()
        self._counts: Counter[Series] = Counter()
        self._observations: list[tuple[Family, float]] = []
        self._user_rules: set[str] = set()
        self._gauges: dict[Series, float] = {}
        self._drafter_failures = since.num_drafter_failures if since else 0
        self._judged_rounds = since.num_judged_rounds if since else 0

    def meter(self, rule: DeferralRule) -> RequestMeter:
        """For a request that is submitted now, with the rule that it asks for."""
        return RequestMeter(self, self._label(rule))

    def add(self, counts: Iterable[tuple[Series, int]] = (), observations: Iterable[tuple[Family, float]] = ()) -> None:
        """Add to counters, and values to histograms."""
        with self._lock:
            for series, amount in counts:
                self._counts[series] += amount
            self._observations.extend(observations)

    def publish(self, statistics: EngineStatistics) -> None:
        """Publish what was counted since the last time, and what the engine holds now.

        Raises:
            Exception: What the registry raises; what was not published by then is lost.
        """
        self._look_at(statistics)
        with self._lock:
            counts, self._counts = self._counts, Counter()
            observations, self._observations = self._observations, []
        if self._registry is None:
            return
        for (family, labels), amount in counts.items():
            self._registry.metric(family, *labels).increment(amount)
        for family, value in observations:
            self._registry.metric(family).observe(value)
        self._set_gauges(self._registry, statistics)

    def close(self) -> None:
        """Take the metrics away."""
        if self._registry is not None:
            self._registry.close()

    def _label(self, rule: DeferralRule) -> str:
        """The rule's name without its parameters and guards: few, whatever clients ask for."""
        while isinstance(rule, Guard):
            rule = rule.rule
        if rule.name in BY_NAME:
            return rule.name
        with self._lock:
            if len(self._user_rules) < MOST_USER_RULES:
                self._user_rules.add(rule.name)
            return rule.name if rule.name in self._user_rules else OTHER_RULES

    def _look_at(self, statistics: EngineStatistics) -> None:
        """Count what the engine did, beside its requests, since the last look."""
        if failures := statistics.num_drafter_failures - self._drafter_failures:
            self.add([((families.DRAFTER_FAILURES, ()), failures)])
        if rounds := statistics.num_judged_rounds - self._judged_rounds:
            self.add(observations=[(families.VERIFY_TIME, seconds) for seconds in statistics.verify_seconds[-rounds:]])
        self._drafter_failures = statistics.num_drafter_failures
        self._judged_rounds = statistics.num_judged_rounds

    def _set_gauges(self, registry: Registry, statistics: EngineStatistics) -> None:
        kv = statistics.kv
        values: dict[Series, float] = {
            (families.RUNNING, ()): statistics.num_running,
            (families.WAITING, ()): statistics.num_waiting,
            (families.SLOTS, ()): statistics.num_slots,
            (families.COST_RATIO, ()): statistics.cost_ratio,
            (families.KV_USED_TOKENS, ()): kv.num_tokens,
            (families.KV_MAX_TOKENS, ()): kv.tokens_per_block * kv.num_blocks,
            (families.KV_BLOCKS, ("tokens_per",)): kv.tokens_per_block,
            (families.KV_BLOCKS, ("used",)): kv.num_used_blocks,
            (families.KV_BLOCKS, ("max",)): kv.num_blocks,
        }
        for series, value in values.items():
            if self._gauges.get(series) != value:
                family, labels = series
                registry.metric(family, *labels).set(value)
        self._gauges = values


class RequestMeter:
    """Counts one request, which is submitted when this is made; used by one thread at a time."""

    def __init__(self, metrics: CascadeMetrics, rule: str) -> None:
        self._metrics = metrics
        self._rule = rule
        self._last = time.monotonic()
        self._has_tokens = False
        self._has_ended = False

    def add(self, output: RoundOutput) -> None:
        """Count a round's output, as it comes."""
        if output.token_ids:
            self._add_tokens(output.sources)
        if output.finish_reason is not None:
            if output.statistics is not None:
                self._add_statistics(output.statistics)
            self._end(output.finish_reason)

    def fail(self) -> None:
        """Count the request as failed, unless it has ended: its last output never came."""
        if not self._has_ended:
            self._end(FinishReason.ERROR)

    def _add_tokens(self, sources: tuple[TokenSource, ...]) -> None:
        """Count a round's tokens, in one go: this runs beside the decoding thread, for each request in each round."""
        now = time.monotonic()
        waited, self._last = now - self._last, now
        if self._has_tokens:
            observed = [(families.INTER_TOKEN_LATENCY, waited / len(sources))]
        else:
            observed = [(families.TIME_TO_FIRST_TOKEN, waited)]
            self._has_tokens = True
        if sources[0] is not TokenSource.TARGET:  # a block was judged
            observed.append((families.ACCEPTANCE_LENGTH, 1 + sources.count(TokenSource.DRAFTER)))
        self._metrics.add([(_EMITTED[source], sources.count(source)) for source in set(sources)], observed)

    def _end(self, reason: FinishReason) -> None:
        self._has_ended = True
        self._metrics.add([((families.REQUESTS, (reason.value, self._rule)), 1)])

    def _add_statistics(self, statistics: RequestStatistics) -> None:
        rule = (self._rule,)
        counts = [
            ((families.DRAFTS, rule), statistics.num_spec_steps),
            ((families.DRAFT_TOKENS, rule), statistics.num_draft_tokens),
            ((families.ACCEPTED_TOKENS, rule), statistics.num_accepted_draft_tokens),
            ((families.DEFERRED_TOKENS, rule), statistics.num_deferrals),
            *_by_position(families.DRAFT_TOKENS_PER_POS, statistics.drafted_per_position),
            *_by_position(families.ACCEPTED_TOKENS_PER_POS, statistics.accepted_per_position),
        ]
        self._metrics.add(counts, [(families.QUEUE_TIME, statistics.queue_seconds)])


def _by_position(family: Family, amounts: list[int]) -> list[tuple[Series, int]]:
    return [((family, (str(position),)), amount) for position, amount in enumerate(amounts)]
