"""What a scrape of a real server says, held against what its clients were told."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from spec_cascade.serving import metric_families as families
from spec_cascade.serving.metric_families import FAMILIES
from tests.dashboard import queried
from tests.triton.clients import TIMEOUT, disconnect, open_post, post
from tests.triton.conftest import eventually
from tests.unit.serving.scripted import FAIL, HUSHED, RAISE

if TYPE_CHECKING:
    from spec_cascade.serving.metric_families import Family
    from spec_cascade.serving.server import TritonServer
    from tests.triton.conftest import ScriptedServer

RULES = {
    "strict": "strict",
    "token_v3": "token_v3:alpha=0.8,strict_prefix_tokens=0",
    "chow": "chow:alpha=0.9",
    "all_of": "all_of(chow:alpha=0.9, token_v2:alpha=0.5)",
}
OWN = {"model": "cascade", "version": "1"}
SUFFIXES = ("_bucket", "_sum", "_count")


@dataclass
class Scrape:
    """The samples of the metrics endpoint: value by name and labels, without model and version."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    types: dict[str, str]
    help: dict[str, str]

    @classmethod
    def of(cls, server: TritonServer) -> Scrape:
        with urlopen(server.metrics_url, timeout=TIMEOUT) as response:
            scraped = list(text_string_to_metric_families(response.read().decode()))
        samples = {}
        for sample in (sample for family in scraped for sample in family.samples):
            labels = dict(sample.labels)
            if sample.name.startswith(("spec_cascade_", "nv_trt_llm_")):
                assert {name: labels.pop(name) for name in OWN} == OWN
            samples[sample.name, frozenset(labels.items())] = sample.value
        # The parser takes the suffix of counters away.
        names = {f.name: f.name + ("_total" if f.type == "counter" else "") for f in scraped}
        return cls(samples, {names[f.name]: f.type for f in scraped}, {names[f.name]: f.documentation for f in scraped})

    def value(self, family: Family, suffix: str = "", **labels: str) -> float:
        """0 where there is no such series yet."""
        return self.samples.get((family.name + suffix, frozenset(labels.items())), 0.0)

    def sum(self, family: Family, by: str | None = None) -> dict[str, float]:
        """The family's series that are not 0, summed by a label."""
        sums: Counter[str] = Counter()
        for (name, labels), value in self.samples.items():
            if name == family.name:
                sums[dict(labels)[by] if by else ""] += value  # type: ignore[assignment]
        return {label: value for label, value in sums.items() if value}

    def __sub__(self, earlier: Scrape) -> Scrape:
        """What has come since."""
        samples = {key: value - earlier.samples.get(key, 0.0) for key, value in self.samples.items()}
        return Scrape(samples, self.types, self.help)


def settled(server: TritonServer, since: Scrape | None = None, ended: int = 0) -> Scrape:
    """A scrape after which nothing is left to be published: so many requests have ended since, and none is live."""

    def has_ended() -> bool:
        now = Scrape.of(server)
        return now.value(families.RUNNING) == 0 and (
            since is None or sum((now - since).sum(families.REQUESTS).values()) >= ended
        )

    eventually(has_ended)
    before = Scrape.of(server)
    while True:
        time.sleep(0.5)
        after = Scrape.of(server)
        if all(after.samples[key] == value for key, value in before.samples.items() if key[0].startswith("spec_")):
            return after
        before = after


def ask(server: TritonServer, i: int) -> dict[str, Any]:
    """One of many requests, of different rules and lengths; its last response with the number of rounds."""
    body = {
        "text_input": "the cat sat on",
        "max_tokens": 12 + i % 7,
        "seed": i,
        "temperature": 1.0,
        "draft_length": i % 5,
        "deferral_rule": list(RULES.values())[i % len(RULES)],
        "ignore_eos": True,
        "stream": True,
    }
    events = post(server, body, stream=True).events
    assert "error" not in events[-1], events[-1]
    rounds = [event["num_output_tokens"] for event in events if event.get("num_output_tokens")]
    return {**json.loads(events[-1]["cascade_stats"]), "rounds": len(rounds), "name": list(RULES)[i % len(RULES)]}


def test_the_counts_are_those_that_the_clients_were_told(server: TritonServer) -> None:
    """Sixteen clients at a time, which metrics that are updated from their threads do not survive."""
    before = settled(server)
    with ThreadPoolExecutor(16) as clients:
        told = list(clients.map(lambda i: ask(server, i), range(96)))
    now = settled(server, before, ended=96)
    gained = now - before

    def total(count: str, **only: Any) -> int:
        return sum(stats[count] for stats in told if only.items() <= stats.items())

    assert gained.sum(families.REQUESTS, "finish_reason") == {"length": 96}
    assert gained.sum(families.REQUESTS, "rule") == dict.fromkeys(RULES, 24)
    for family, count in (
        (families.DRAFTS, "num_spec_steps"),
        (families.DRAFT_TOKENS, "num_draft_tokens"),
        (families.ACCEPTED_TOKENS, "num_accepted_draft_tokens"),
        (families.DEFERRED_TOKENS, "num_deferrals"),
    ):
        by_rule = {rule: total(count, name=rule) for rule in RULES}
        assert gained.sum(family, "rule") == {rule: n for rule, n in by_rule.items() if n}
    assert total("num_accepted_draft_tokens") > 0
    assert sum(gained.sum(families.OUTPUT_TOKENS).values()) == total("num_output_tokens")
    sources = gained.sum(families.OUTPUT_TOKENS, "source")
    assert sources["drafter"] == total("num_accepted_draft_tokens")
    assert sources["residual"] == total("num_residual_tokens")
    assert sources.get("bonus", 0) == total("num_bonus_tokens")
    for family, key in (
        (families.DRAFT_TOKENS_PER_POS, "drafted_per_position"),
        (families.ACCEPTED_TOKENS_PER_POS, "accepted_per_position"),
    ):
        by_position = Counter({str(j): 0 for j in range(4)})
        for stats in told:
            by_position.update({str(j): count for j, count in enumerate(stats[key])})
        assert gained.sum(family, "position") == {j: n for j, n in by_position.items() if n}
    assert gained.value(families.DRAFTER_FAILURES) == 0

    assert gained.value(families.ACCEPTANCE_LENGTH, "_count") == total("num_spec_steps")
    lengths = total("num_spec_steps") + total("num_accepted_draft_tokens")
    assert gained.value(families.ACCEPTANCE_LENGTH, "_sum") == lengths
    for kept in range(5):
        blocks = sum(sum(stats["acceptance_histogram"][: kept + 1]) for stats in told)
        assert gained.value(families.ACCEPTANCE_LENGTH, "_bucket", le=str(1 + kept)) == blocks
    assert gained.value(families.TIME_TO_FIRST_TOKEN, "_count") == 96
    assert gained.value(families.INTER_TOKEN_LATENCY, "_count") == total("rounds") - 96
    assert gained.value(families.QUEUE_TIME, "_count") == 96
    assert gained.value(families.QUEUE_TIME, "_sum") == pytest.approx(total("queue_seconds"))
    assert total("queue_seconds") > 0
    verified = gained.value(families.VERIFY_TIME, "_count")
    assert 0 < verified <= total("num_spec_steps")

    for family in (families.RUNNING, families.WAITING, families.KV_USED_TOKENS):
        assert now.value(family) == 0
    assert now.value(families.SLOTS) == 4
    assert now.value(families.KV_MAX_TOKENS) == 4 * 256
    blocks_of = {"tokens_per": 256.0, "max": 4.0}  # none is used
    assert now.sum(families.KV_BLOCKS, "kv_cache_block_type") == blocks_of


def test_gauges_say_what_is_held(scripted_server: ScriptedServer) -> None:
    server = scripted_server.server
    streams = [open_post(server, {"text_input": "ab", "seed": HUSHED, "stream": True}) for _ in range(3)]
    try:
        eventually(lambda: Scrape.of(server).value(families.RUNNING) == 3)
    finally:
        for connection, response in streams:
            disconnect(connection, response)
    eventually(lambda: Scrape.of(server).value(families.RUNNING) == 0)


@pytest.mark.parametrize("model", ["ensemble", "cascade"])
def test_a_request_whose_client_went_away_is_counted_as_cancelled(scripted_server: ScriptedServer, model: str) -> None:
    server = scripted_server.server
    before = settled(server)
    prompt = {"input_ids": [1, 2]} if model == "cascade" else {"text_input": "ab"}
    connection, response = open_post(server, {**prompt, "seed": HUSHED, "max_tokens": 9, "stream": True}, model)
    assert response.readline().startswith(b"data: ")
    disconnect(connection, response)
    gained = settled(server, before, ended=1) - before
    assert gained.sum(families.REQUESTS, "finish_reason") == {"cancelled": 1}
    assert gained.value(families.REQUESTS, finish_reason="cancelled", rule="strict") == 1
    assert gained.value(families.OUTPUT_TOKENS, source="target") == 1


@pytest.mark.parametrize("seed", [FAIL, RAISE])
def test_a_request_that_failed_is_counted_as_an_error(scripted_server: ScriptedServer, seed: int) -> None:
    before = settled(scripted_server.server)
    post(scripted_server.server, {"text_input": "ab", "seed": seed, "max_tokens": 9})
    gained = settled(scripted_server.server, before, ended=1) - before
    assert gained.sum(families.REQUESTS, "finish_reason") == {"error": 1}


def test_every_family_is_scraped_as_it_is_declared(server: TritonServer) -> None:
    before = Scrape.of(server)
    ask(server, 4)
    scrape = settled(server, before, ended=1)
    for family in FAMILIES:
        assert scrape.types[family.name] == family.kind
        assert scrape.help[family.name] == family.meaning
        of_family = [labels for name, labels in scrape.samples if name in series_of(family)]
        assert of_family, family.name
        for labels in of_family:
            assert {name for name, _ in labels} - {"le"} == set(family.labels)


def test_the_dashboard_asks_for_what_is_there(server: TritonServer) -> None:
    before = Scrape.of(server)
    ask(server, 4)
    scrape = settled(server, before, ended=1)
    for query in queried():
        there = [{**dict(labels), **OWN} for name, labels in scrape.samples if name == query.name]
        assert any(query.labels <= labels.keys() and query.values.items() <= labels.items() for labels in there), query


def series_of(family: Family) -> set[str]:
    """The names under which a family is scraped."""
    return {family.name + suffix for suffix in SUFFIXES} if family.kind == "histogram" else {family.name}
