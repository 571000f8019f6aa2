"""What was counted until now does not change when counting goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from spec_cascade.decoding.statistics import EngineStatistics, RequestStatistics


def changeable(value: Any) -> Iterator[int]:
    """The identities of all parts that can change in place."""
    if is_dataclass(value):
        yield id(value)
        for field in fields(value):
            yield from changeable(getattr(value, field.name))
    elif isinstance(value, (list, dict, set)):
        yield id(value)
        for part in value.values() if isinstance(value, dict) else value:
            yield from changeable(part)


def test_a_copy_is_equal_and_shares_nothing_that_changes() -> None:
    counted = RequestStatistics(rule="token_v3:alpha=0.8", rule_params={"alpha": 0.8}, queue_seconds=0.5)
    counted.record_step(drafted=4, accepted=2)
    counted.seconds.host = 1.0
    statistics = EngineStatistics(num_running=2, cost_ratio=0.25, verify_seconds=(0.1,))
    statistics.add("stop", counted)
    statistics.kv.num_tokens = 7
    statistics.seconds.verify = 2.0
    for original, copy in ((counted, counted.copy()), (statistics, statistics.copy())):
        assert copy == original
        assert not set(changeable(copy)) & set(changeable(original))
