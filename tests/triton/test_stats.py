"""`spec-cascade stats` of a real server, held against what its clients were told."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade_client.commands import register
from spec_cascade_client.errors import ServerError
from spec_cascade_client.scrape import fetch
from tests.triton.clients import post
from tests.triton.conftest import eventually

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer

RULES = ("strict", "token_v3:alpha=0.8", "chow:alpha=0.9")


def look(url: str) -> dict[str, Any]:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["stats", url, "--once", "--json"])
    assert result.exit_code == 0, result.stderr
    read: dict[str, Any] = json.loads(result.stdout)
    return read


def quiet(url: str) -> dict[str, Any]:
    """A look at a server that has published all of what earlier requests counted."""
    looks = [look(url)]

    def is_quiet() -> bool:
        time.sleep(0.3)
        looks.append(look(url))
        return looks[-1] == looks[-2] and looks[-1]["now"]["running"] == 0

    eventually(is_quiet, 30)
    return looks[-1]


def test_it_says_what_the_clients_were_told(server: TritonServer) -> None:
    url = server.metrics_url.removesuffix("/metrics")
    before = quiet(url)["total"]
    told = []
    names = [rule.partition(":")[0] for rule in RULES]
    for i in range(12):
        rule = RULES[i % len(RULES)]
        body = {"text_input": "the cat", "max_tokens": 20, "seed": i, "draft_length": 3, "deferral_rule": rule}
        told.append((names[i % len(names)], json.loads(post(server, body).json["cascade_stats"])))

    def gained(*path: str) -> Any:
        now, then = look(url)["total"], before
        for key in path:
            now, then = now.get(key, {}), then.get(key, {})
        return (now or 0) - (then or 0)

    def total(key: str, *rules: str) -> int:
        return sum(stats[key] for rule, stats in told if not rules or rule in rules)

    # Of what belongs together, requests are published after the other counters, and times last.
    for rule in names:
        eventually(lambda rule=rule: gained("rules", rule, "requests") == 4, 30)  # type: ignore[misc]
    calls = total("num_target_calls")
    eventually(lambda: gained("time_to_first_token", "count") + gained("inter_token_latency", "count") == calls, 30)
    assert gained("time_to_first_token", "count") == 12
    for rule in names:
        assert gained("rules", rule, "draft_tokens") == total("num_draft_tokens", rule) > 0
        assert gained("rules", rule, "accepted_tokens") == total("num_accepted_draft_tokens", rule)
        assert gained("rules", rule, "deferred_tokens") == total("num_deferrals", rule)
    now = look(url)
    written = sum(now["total"]["output_tokens"].values()) - sum(before["output_tokens"].values())
    assert written == total("num_output_tokens")
    assert now["total"]["time_to_first_token"]["p50"] > 0
    assert now["now"]["slots"] == 4


def test_the_port_for_requests_has_no_metrics(server: TritonServer) -> None:
    with pytest.raises(ServerError, match="metrics have a port of their own"):
        fetch(server.http_url)
