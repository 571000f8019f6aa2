"""The metrics that the cascade model publishes, as data: the table in docs/metrics.md is held to this one.

Every metric has the labels ``model`` and ``version`` beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]

# Upper bounds in seconds.
_REQUEST_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0)
_TOKEN_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
_VERIFY_SECONDS = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """Metrics that share a name.

    Attributes:
        name: As scraped; a histogram's series have ``_bucket``, ``_sum`` and ``_count`` behind it.
        meaning: Its help text.
        labels: Beside ``model`` and ``version``.
        buckets: Upper bounds of a histogram's buckets, rising; the one without a bound is added by the server.
    """

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Family(
    "spec_cascade_requests_total", "counter", "Requests that ended, cancelled ones too.", ("finish_reason", "rule")
)
OUTPUT_TOKENS = Family("spec_cascade_num_output_tokens_total", "counter", "Tokens emitted, by writer.", ("source",))
DRAFTS = Family("spec_cascade_num_drafts_total", "counter", "Drafted blocks that were judged.", ("rule",))
DRAFT_TOKENS = Family("spec_cascade_num_draft_tokens_total", "counter", "Tokens drafted.", ("rule",))
ACCEPTED_TOKENS = Family(
    "spec_cascade_num_accepted_tokens_total", "counter", "Drafted tokens that were emitted.", ("rule",)
)
DRAFT_TOKENS_PER_POS = Family(
    "spec_cascade_num_draft_tokens_per_pos_total", "counter", "Tokens drafted at this position.", ("position",)
)
ACCEPTED_TOKENS_PER_POS = Family(
    "spec_cascade_num_accepted_tokens_per_pos_total",
    "counter",
    "Tokens drafted at this position that were emitted.",
    ("position",),
)
DEFERRED_TOKENS = Family(
    "spec_cascade_num_deferred_tokens_total", "counter", "Drafted tokens at which the rule deferred.", ("rule",)
)
DRAFTER_FAILURES = Family(
    "spec_cascade_num_drafter_failures_total", "counter", "Rounds that lost their drafts because the drafter failed."
)
ACCEPTANCE_LENGTH = Family(
    "spec_cascade_acceptance_length",
    "histogram",
    "Tokens that a judged block gave: its accepted ones and the one that follows.",
    buckets=(1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 17, 33),
)
TIME_TO_FIRST_TOKEN = Family(
    "spec_cascade_time_to_first_token_seconds",
    "histogram",
    "From submission to the engine until the first token.",
    buckets=_REQUEST_SECONDS,
)
INTER_TOKEN_LATENCY = Family(
    "spec_cascade_inter_token_latency_seconds",
    "histogram",
    "Since the request's previous round, over the tokens of this one; once a round.",
    buckets=_TOKEN_SECONDS,
)
QUEUE_TIME = Family(
    "spec_cascade_queue_time_seconds",
    "histogram",
    "From submission until the request got a slot, or ended without one.",
    buckets=_REQUEST_SECONDS,
)
VERIFY_TIME = Family(
    "spec_cascade_verify_time_seconds", "histogram", "Judging the drafts of a round.", buckets=_VERIFY_SECONDS
)
RUNNING = Family("spec_cascade_requests_running", "gauge", "Requests with a slot.")
WAITING = Family("spec_cascade_requests_waiting", "gauge", "Requests in the queue.")
SLOTS = Family("spec_cascade_slots", "gauge", "Slots in all.")
COST_RATIO = Family(
    "spec_cascade_cost_ratio",
    "gauge",
    "A forward of the drafter over one of the target, as measured; 0 while it is not.",
)
KV_USED_TOKENS = Family("spec_cascade_kv_cache_used_tokens", "gauge", "Tokens whose keys and values the target holds.")
KV_MAX_TOKENS = Family("spec_cascade_kv_cache_max_tokens", "gauge", "Tokens that there is room for.")
KV_BLOCKS = Family(
    "nv_trt_llm_kv_cache_block_metrics",
    "gauge",
    "Blocks of the KV cache: tokens per block, used, in all.",
    ("kv_cache_block_type",),
)

FAMILIES = (
    REQUESTS,
    OUTPUT_TOKENS,
    DRAFTS,
    DRAFT_TOKENS,
    ACCEPTED_TOKENS,
    DRAFT_TOKENS_PER_POS,
    ACCEPTED_TOKENS_PER_POS,
    DEFERRED_TOKENS,
    DRAFTER_FAILURES,
    ACCEPTANCE_LENGTH,
    TIME_TO_FIRST_TOKEN,
    INTER_TOKEN_LATENCY,
    QUEUE_TIME,
    VERIFY_TIME,
    RUNNING,
    WAITING,
    SLOTS,
    COST_RATIO,
    KV_USED_TOKENS,
    KV_MAX_TOKENS,
    KV_BLOCKS,
)
