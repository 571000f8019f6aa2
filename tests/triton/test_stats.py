"""`spec-cascade stats` of a real server, held against what its clients were told."""

from __future__ import annotations

import json
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


def test_it_says_what_the_clients_were_told(server: TritonServer) -> None:
    url = server.metrics_url.removesuffix("/metrics")
    eventually(lambda: look(url)["now"]["running"] == 0, 30)
    before = look(url)["total"]
    told = []
    for i in range(12):
        rule = RULES[i % len(RULES)]
        body = {"text_input": "the cat", "max_tokens": 20, "seed": i, "draft_length": 3, "deferral_rule": rule}
        told.append((rule.partition(":")[0], json.loads(post(server, body).json["cascade_stats"])))

    def gained(*path: str) -> Any:
        now, then = look(url)["total"], before
        for key in path:
            now, then = now.get(key, {}), then.get(key, {})
        return (now or 0) - (then or 0)

    def total(key: str, *rules: str) -> int:
        return sum(stats[key] for rule, stats in told if not rules or rule in rules)

    tokens = total("num_output_tokens")
    calls = total("num_target_calls")
    eventually(lambda: gained("time_to_first_token", "count") == 12, 30)
    eventually(lambda: gained("time_to_first_token", "count") + gained("inter_token_latency", "count") == calls, 30)
    eventually(lambda: gained("rules", "strict", "requests") == 4, 30)
    for name in ("strict", "token_v3", "chow"):
        assert gained("rules", name, "draft_tokens") == total("num_draft_tokens", name) > 0
        assert gained("rules", name, "accepted_tokens") == total("num_accepted_draft_tokens", name)
        assert gained("rules", name, "deferred_tokens") == total("num_deferrals", name)
    now = look(url)
    written = sum(now["total"]["output_tokens"].values()) - sum(before["output_tokens"].values())
    assert written == tokens
    assert now["total"]["time_to_first_token"]["p50"] > 0
    assert now["now"]["slots"] == 4


def test_the_port_for_requests_has_no_metrics(server: TritonServer) -> None:
    with pytest.raises(ServerError, match="metrics have a port of their own"):
        fetch(server.http_url)
