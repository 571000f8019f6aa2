"""What is counted of requests and rounds, and when it is published."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spec_cascade.decoding.loop import REMEMBERED_ROUNDS
from spec_cascade.decoding.request import FinishReason, RoundOutput, TokenSource
from spec_cascade.decoding.statistics import EngineStatistics, KvUse, RequestStatistics
from spec_cascade.rules import parse_rule
from spec_cascade.rules.baseline import Strict
from spec_cascade.rules.registry import BUILT_IN
from spec_cascade.serving import metric_families as families
from spec_cascade.serving.live import WATCH_SECONDS
from spec_cascade.serving.metric_families import FAMILIES, Family
from spec_cascade.serving.metrics import MOST_USER_RULES, OTHER_RULES, CascadeMetrics
from tests.dashboard import dashboard, queried, queries_of
from tests.unit.serving.recording_registry import RecordingRegistry

DRAFTER, RESIDUAL, BONUS, TARGET = TokenSource
NOTHING = EngineStatistics()
BY_NAME = {family.name: family for family in FAMILIES}
TEXT = (Path(__file__).parents[3] / "docs/metrics.md").read_text(encoding="utf-8")


class Clock:
    """Seconds that pass when told."""

    now = 100.0

    def monotonic(self) -> float:
        """As `time.monotonic`."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("spec_cascade.serving.metrics.time", SimpleNamespace(monotonic=made.monotonic))
    return made


def output(*sources: TokenSource, reason: FinishReason | None = None, **counts: Any) -> RoundOutput:
    statistics = RequestStatistics(**counts) if reason is not None else None
    return RoundOutput(
        index=0,
        token_ids=tuple(range(len(sources))),
        sources=sources,
        finish_reason=reason,
        statistics=statistics,
    )


def judged(*blocks: tuple[int, int]) -> dict[str, Any]:
    """The counts of a request whose blocks were so many drafted and so many of them accepted."""
    statistics = RequestStatistics()
    for drafted, accepted in blocks:
        statistics.record_step(drafted=drafted, accepted=accepted)
    return {name: getattr(statistics, name) for name in RequestStatistics.__slots__}


def test_a_request_is_counted_when_it_ends() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    meter = metrics.meter(parse_rule("token_v3:alpha=0.8"))
    meter.add(output(TARGET))
    meter.add(output(DRAFTER, DRAFTER, RESIDUAL))
    meter.add(output(RESIDUAL))
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {}
    assert registry.of(families.OUTPUT_TOKENS) == {("target",): 1, ("drafter",): 2, ("residual",): 2}
    assert registry.observed[families.ACCEPTANCE_LENGTH.name] == [3, 1]
    counts = judged((4, 2), (4, 0), (2, 2)) | {"num_deferrals": 3, "queue_seconds": 0.25}
    meter.add(output(DRAFTER, DRAFTER, BONUS, reason=FinishReason.STOP, **counts))
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {("stop", "token_v3"): 1}
    assert registry.of(families.OUTPUT_TOKENS) == {("target",): 1, ("drafter",): 4, ("residual",): 2, ("bonus",): 1}
    assert registry.of(families.DRAFTS) == {("token_v3",): 3}
    assert registry.of(families.DRAFT_TOKENS) == {("token_v3",): 10}
    assert registry.of(families.ACCEPTED_TOKENS) == {("token_v3",): 4}
    assert registry.of(families.DRAFT_TOKENS_PER_POS) == {("0",): 3, ("1",): 3, ("2",): 2, ("3",): 2}
    assert registry.of(families.ACCEPTED_TOKENS_PER_POS) == {("0",): 2, ("1",): 2, ("2",): 0, ("3",): 0}
    assert registry.of(families.DEFERRED_TOKENS) == {("token_v3",): 3}
    lengths = registry.observed[families.ACCEPTANCE_LENGTH.name]
    assert lengths == [3, 1, 3]
    assert sum(lengths) == len(lengths) + 4
    assert registry.observed[families.QUEUE_TIME.name] == [0.25]


@pytest.mark.parametrize("reason", FinishReason)
def test_every_end_is_counted_under_its_reason(reason: FinishReason) -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    meter = metrics.meter(Strict())
    meter.add(output(reason=reason, **judged((4, 1))))
    meter.fail()
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {(reason.value, "strict"): 1}
    assert registry.of(families.ACCEPTED_TOKENS) == {("strict",): 1}


def test_a_request_whose_last_output_never_came_has_failed() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    meter = metrics.meter(Strict())
    meter.add(output(TARGET))
    meter.fail()
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {("error", "strict"): 1}


def test_times_are_taken_between_rounds_with_tokens(clock: Clock) -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    meter = metrics.meter(Strict())
    clock.now += 2
    meter.add(output(TARGET))
    clock.now += 0.5
    meter.add(output())
    clock.now += 0.25
    meter.add(output(DRAFTER, DRAFTER, BONUS))
    clock.now += 1
    meter.add(output(reason=FinishReason.CANCELLED))
    metrics.publish(NOTHING)
    assert registry.observed[families.TIME_TO_FIRST_TOKEN.name] == [2]
    assert registry.observed[families.INTER_TOKEN_LATENCY.name] == [0.25]


def test_a_request_without_a_token_has_no_first_one() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    metrics.meter(Strict()).add(output(reason=FinishReason.CANCELLED))
    metrics.publish(NOTHING)
    assert families.TIME_TO_FIRST_TOKEN.name not in registry.observed


def test_rounds_are_counted_between_looks() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    metrics.publish(EngineStatistics(num_judged_rounds=2, verify_seconds=(0.1, 0.2), num_drafter_failures=1))
    metrics.publish(EngineStatistics(num_judged_rounds=2, verify_seconds=(0.1, 0.2), num_drafter_failures=1))
    metrics.publish(EngineStatistics(num_judged_rounds=3, verify_seconds=(0.1, 0.2, 0.3), num_drafter_failures=3))
    # Of a hundred rounds the engine remembers three.
    metrics.publish(EngineStatistics(num_judged_rounds=103, verify_seconds=(0.4, 0.5, 0.6), num_drafter_failures=3))
    assert registry.observed[families.VERIFY_TIME.name] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    assert registry.of(families.DRAFTER_FAILURES) == {(): 3}


def test_gauges_are_set_when_they_change() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    kv = KvUse(tokens_per_block=256, num_used_blocks=3, num_blocks=4, num_tokens=70)
    statistics = EngineStatistics(num_running=3, num_waiting=5, num_slots=4, cost_ratio=0.25, kv=kv)
    metrics.publish(statistics)
    assert {name: value for (name, *labels), value in registry.values.items() if not labels} == {
        "spec_cascade_requests_running": 3,
        "spec_cascade_requests_waiting": 5,
        "spec_cascade_slots": 4,
        "spec_cascade_cost_ratio": 0.25,
        "spec_cascade_kv_cache_used_tokens": 70,
        "spec_cascade_kv_cache_max_tokens": 1024,
    }
    assert registry.of(families.KV_BLOCKS) == {("tokens_per",): 256, ("used",): 3, ("max",): 4}
    registry.updates = 0
    metrics.publish(statistics)
    assert registry.updates == 0
    statistics.num_waiting = 0
    metrics.publish(statistics)
    assert registry.updates == 1
    assert registry.of(families.WAITING) == {(): 0}


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        ("strict", "strict"),
        ("confidence:alpha=0.3", "chow"),
        ("chow:alpha=0.3,strict_prefix_tokens=2", "chow"),
        ("phase(token_v3:alpha=0.8):start=1,end=2", "token_v3"),
        ("all_of(chow:alpha=0.3, token_v2:alpha=0.2)", "all_of"),
        ("schedule(0=strict, 16=token_v3:alpha=0.5)", "schedule"),
    ],
)
def test_a_rule_is_labelled_by_its_name_alone(rule: str, label: str) -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    metrics.meter(parse_rule(rule)).add(output(reason=FinishReason.STOP))
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {("stop", label): 1}


def test_rules_that_are_not_built_in_share_a_label_after_the_first_few() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)
    rules = [type(f"User{i}", (Strict,), {"name": f"user_{i}"})() for i in range(3 * MOST_USER_RULES)]
    for rule in [*rules, *rules, Strict()]:
        metrics.meter(rule).add(output(reason=FinishReason.STOP))
    metrics.publish(NOTHING)
    counted = {labels[1]: value for labels, value in registry.of(families.REQUESTS).items()}
    assert counted == {
        "strict": 1,
        OTHER_RULES: 2 * 2 * MOST_USER_RULES,
        **{f"user_{i}": 2 for i in range(MOST_USER_RULES)},
    }
    assert OTHER_RULES not in {rule.name for rule in BUILT_IN}


def test_threads_count_and_one_publishes() -> None:
    registry = RecordingRegistry()
    metrics = CascadeMetrics(registry)

    def count_requests() -> None:
        for _ in range(200):
            meter = metrics.meter(Strict())
            meter.add(output(TARGET))
            meter.add(output(DRAFTER, BONUS, reason=FinishReason.LENGTH, **judged((1, 1))))

    threads = [threading.Thread(target=count_requests) for _ in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        metrics.publish(NOTHING)
    metrics.publish(NOTHING)
    assert registry.of(families.REQUESTS) == {("length", "strict"): 1600}
    assert registry.of(families.OUTPUT_TOKENS) == {("target",): 1600, ("drafter",): 1600, ("bonus",): 1600}
    assert len(registry.observed[families.INTER_TOKEN_LATENCY.name]) == 1600
    assert registry.threads == {threading.get_ident()}


def test_what_ran_before_there_were_clients_is_not_counted() -> None:
    registry = RecordingRegistry()
    before = EngineStatistics(num_judged_rounds=1, verify_seconds=(0.1,), num_drafter_failures=1)
    metrics = CascadeMetrics(registry, since=before)
    metrics.publish(before)
    assert registry.observed == {}
    assert registry.of(families.DRAFTER_FAILURES) == {}
    metrics.publish(EngineStatistics(num_judged_rounds=2, verify_seconds=(0.1, 0.2), num_drafter_failures=2))
    assert registry.observed == {families.VERIFY_TIME.name: [0.2]}
    assert registry.of(families.DRAFTER_FAILURES) == {(): 1}


def test_without_a_registry_nothing_is_kept() -> None:
    metrics = CascadeMetrics(None)
    for _ in range(3):
        metrics.meter(Strict()).add(output(TARGET, reason=FinishReason.STOP, **judged((4, 2))))
        metrics.publish(NOTHING)
        assert not metrics._counts
        assert not metrics._observations
    metrics.close()


def test_no_family_is_left_out() -> None:
    assert list(FAMILIES) == [value for value in vars(families).values() if isinstance(value, Family)]


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_keeps_to_the_conventions(family: Family) -> None:
    assert family.name.startswith("spec_cascade_") or family is families.KV_BLOCKS
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert bool(family.buckets) == (family.kind == "histogram")
    assert list(family.buckets) == sorted(set(family.buckets))
    assert not {"model", "version", "le"} & set(family.labels)


def test_the_documented_table_is_the_code() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if "| `" in line]
    documented = [(name.strip("`"), kind, tuple(re.findall(r"`(\w+)`", labels)), meaning)
                  for name, kind, labels, meaning, _ in rows]  # fmt: skip
    assert documented == [(f.name, f.kind, f.labels, f.meaning) for f in FAMILIES]
    assert all(formula for *_, formula in rows)


def test_the_documented_numbers_are_the_codes() -> None:
    text = " ".join(TEXT.split())
    assert f"the first {MOST_USER_RULES} have a label of their own and the rest share `{OTHER_RULES}`" in text
    assert f"published every {1000 * WATCH_SECONDS:.0f} ms" in text
    assert f"of more than {REMEMBERED_ROUNDS} between two looks" in text
    assert all(f"`{reason.value}`" in text for reason in FinishReason)
    assert all(f"`{source.name.lower()}`" in text for source in TokenSource)


def test_the_dashboard_asks_for_all_that_is_published_and_for_nothing_else() -> None:
    assert {base(query.name) for query in queried()} == set(BY_NAME)


def test_the_dashboard_asks_for_labels_that_the_families_have() -> None:
    for query in queried():
        buckets = {"le"} if query.name.endswith("_bucket") else set()
        assert query.labels <= {*BY_NAME[base(query.name)].labels, "model", "version"} | buckets, query


def test_a_dashboard_query_is_read_as_prometheus_reads_it() -> None:
    expression = 'sum by (a, b) (rate(x_total{c="1", d=~"$d"}[5m])) / 1e3 + max(y{c="2"}) - on_off'
    found = {query.name: (sorted(query.labels), query.values) for query in queries_of(expression, "{{e}} {{instance}}")}
    assert found == {
        "x_total": (["a", "b", "c", "d", "e"], {"c": "1"}),
        "y": (["a", "b", "c", "e"], {"c": "2"}),
        "on_off": (["a", "b", "e"], {}),
    }


def test_the_panels_of_the_dashboard_lie_side_by_side() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def base(name: str) -> str:
    """The family of a series."""
    return name if name in BY_NAME else re.sub("_(bucket|sum|count)$", "", name)
