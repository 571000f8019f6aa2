"""What the cascade model did, as metrics; every value was on the host already.

Requests are counted by the threads that forward them, and everything is published by one: metrics that several threads
update bring the whole server down. An update is a message to the server's process, so counts are summed up in between.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from spec_cascade.decoding.request import FinishReason
from spec_cascade.rules.guards import Guard
from spec_cascade.rules.registry import BY_NAME
from spec_cascade.serving import metric_families as families

if TYPE_CHECKING:
    from spec_cascade.decoding.request import RoundOutput
    from spec_cascade.decoding.statistics import EngineStatistics, RequestStatistics
    from spec_cascade.rules import DeferralRule
    from spec_cascade.serving.metric_families import Family

    Series = tuple[Family, tuple[str, ...]]  # with the values of its labels

log = logging.getLogger(__name__)

MOST_USER_RULES = 16
"""Rules that are not built in and have a label of their own; the others share one."""
OTHER_RULES = "other"


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
    """

    def __init__(self, registry: Registry | None) -> None:
        self._registry = registry
        self._failed = False
        self._lock = Lock()
        self._counts: Counter[Series] = Counter()
        self._observations: list[tuple[Family, float]] = []
        self._user_rules: set[str] = set()
        self._gauges: dict[Series, float] = {}
        self._drafter_failures = 0
        self._judged_rounds = 0

    def meter(self, rule: DeferralRule) -> RequestMeter:
        """For a request that was just submitted, with the rule that it asked for."""
        return RequestMeter(self, self._label(rule))

    def count(self, family: Family, amount: int, *labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[family, labels] += amount

    def observe(self, family: Family, *values: float) -> None:
        """Count values into a histogram."""
        with self._lock:
            self._observations.extend((family, value) for value in values)

    def publish(self, statistics: EngineStatistics) -> None:
        """Publish what was counted since the last time, and what the engine holds now.

        A failure is logged, and is the end of publishing: the server's metrics stay as they are.
        """
        self._look_at(statistics)
        with self._lock:
            counts, self._counts = self._counts, Counter()
            observations, self._observations = self._observations, []
        if self._registry is None or self._failed:
            return
        try:
            for (family, labels), amount in counts.items():
                self._registry.metric(family, *labels).increment(amount)
            for family, value in observations:
                self._registry.metric(family).observe(value)
            self._set_gauges(self._registry, statistics)
        except Exception:  # whatever the server makes of it, requests go on
            log.exception("the metrics could not be published; no more are")
            self._failed = True

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
            self.count(families.DRAFTER_FAILURES, failures)
        if rounds := statistics.num_judged_rounds - self._judged_rounds:
            self.observe(families.VERIFY_TIME, *statistics.verify_seconds[-rounds:])
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
    """Counts one request, which was submitted when this was made; used by one thread at a time."""

    def __init__(self, metrics: CascadeMetrics, rule: str) -> None:
        self._metrics = metrics
        self._rule = rule
        self._last = time.monotonic()
        self._has_tokens = False
        self._has_ended = False

    def add(self, output: RoundOutput) -> None:
        """Count a round's output, as it comes."""
        if output.token_ids:
            now = time.monotonic()
            waited, self._last = now - self._last, now
            if self._has_tokens:
                self._metrics.observe(families.INTER_TOKEN_LATENCY, waited / len(output.token_ids))
            else:
                self._metrics.observe(families.TIME_TO_FIRST_TOKEN, waited)
            self._has_tokens = True
            for source, amount in Counter(output.sources).items():
                self._metrics.count(families.OUTPUT_TOKENS, amount, source.name.lower())
        if output.finish_reason is not None:
            if output.statistics is not None:
                self._add_statistics(output.statistics)
            self._end(output.finish_reason)

    def fail(self) -> None:
        """Count the request as failed, unless it has ended: its last output never came."""
        if not self._has_ended:
            self._end(FinishReason.ERROR)

    def _end(self, reason: FinishReason) -> None:
        self._has_ended = True
        self._metrics.count(families.REQUESTS, 1, reason.value, self._rule)

    def _add_statistics(self, statistics: RequestStatistics) -> None:
        count = self._metrics.count
        count(families.DRAFTS, statistics.num_spec_steps, self._rule)
        count(families.DRAFT_TOKENS, statistics.num_draft_tokens, self._rule)
        count(families.ACCEPTED_TOKENS, statistics.num_accepted_draft_tokens, self._rule)
        count(families.DEFERRED_TOKENS, statistics.num_deferrals, self._rule)
        for position, amount in enumerate(statistics.drafted_per_position):
            count(families.DRAFT_TOKENS_PER_POS, amount, str(position))
        for position, amount in enumerate(statistics.accepted_per_position):
            count(families.ACCEPTED_TOKENS_PER_POS, amount, str(position))
        for accepted, rounds in enumerate(statistics.acceptance_histogram):
            self._metrics.observe(families.ACCEPTANCE_LENGTH, *[1 + accepted] * rounds)
        self._metrics.observe(families.QUEUE_TIME, statistics.queue_seconds)
