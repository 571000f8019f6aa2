"""`spec-cascade stats`, on scrapes whose numbers are known."""

from __future__ import annotations

import io
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import typer
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

from spec_cascade.serving.metric_families import FAMILIES
from spec_cascade_client import activity
from spec_cascade_client.activity import Activity, Histogram
from spec_cascade_client.commands import register
from spec_cascade_client.errors import InvalidRequestError, NoConnectionError, ServerError
from spec_cascade_client.scrape import Scrape, fetch
from spec_cascade_client.stats import show

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN = 'model="cascade",version="1"'


def histogram(name: str, *counts: int) -> str:
    """Counts of times up to 0.1 s, 0.2 s, 0.5 s and beyond."""
    bounds = zip(("0.1", "0.2", "0.5", "+Inf"), counts, strict=True)
    return "".join(f'{name}_bucket{{{OWN},le="{bound}"}} {count}\n' for bound, count in bounds)


def page(times: int = 1) -> str:
    """A scrape of a server after ``times`` the same requests."""
    counters = {
        (activity.REQUESTS, 'finish_reason="stop",rule="strict"'): 3,
        (activity.REQUESTS, 'finish_reason="length",rule="token_v3"'): 5,
        (activity.REQUESTS, 'finish_reason="stop",rule="token_v3"'): 2,
        (activity.OUTPUT_TOKENS, 'source="drafter"'): 60,
        (activity.OUTPUT_TOKENS, 'source="residual"'): 20,
        (activity.OUTPUT_TOKENS, 'source="target"'): 20,
        (activity.DRAFT_TOKENS, 'rule="strict"'): 40,
        (activity.DRAFT_TOKENS, 'rule="token_v3"'): 60,
        (activity.ACCEPTED_TOKENS, 'rule="strict"'): 10,
        (activity.ACCEPTED_TOKENS, 'rule="token_v3"'): 50,
        (activity.DEFERRED_TOKENS, 'rule="token_v3"'): 7,
    }
    gauges = {
        activity.RUNNING: 3,
        activity.WAITING: 2,
        activity.SLOTS: 4,
        activity.KV_USED_TOKENS: 256,
        activity.KV_MAX_TOKENS: 1024,
        activity.COST_RATIO: 0.125,
    }
    lines = [f"# HELP {activity.REQUESTS} Requests that ended.\n# TYPE {activity.REQUESTS} counter\n"]
    lines += [f"{name}{{{OWN},{labels}}} {times * count}.000000\n" for (name, labels), count in counters.items()]
    lines += [f"{activity.DRAFTER_FAILURES}{{{OWN}}} {times}\n"]
    lines += [f"{name}{{{OWN}}} {value}\n" for name, value in gauges.items()]
    lines += [histogram(activity.TIME_TO_FIRST_TOKEN, *(times * n for n in (4, 8, 10, 10)))]
    lines += [histogram(activity.INTER_TOKEN_LATENCY, *(times * n for n in (40, 40, 40, 40)))]
    return "".join(lines) + 'nv_inference_count{model="x"} 5\n'


REQUESTS = {
    "requests": {"length": 5, "stop": 5},
    "output_tokens": {"drafter": 60, "residual": 20, "target": 20},
    "tokens_per_target_call": 2.0,  # 10 first and 40 further rounds
    "acceptance_rate": 0.6,
    "rules": {
        "strict": {
            "requests": 3,
            "draft_tokens": 40,
            "accepted_tokens": 10,
            "deferred_tokens": 0,
            "acceptance_rate": 0.25,
        },
        "token_v3": {
            "requests": 7,
            "draft_tokens": 60,
            "accepted_tokens": 50,
            "deferred_tokens": 7,
            "acceptance_rate": pytest.approx(5 / 6),
        },
    },
    "drafter_failures": 1,
    "time_to_first_token": {
        "count": 10,
        "p50": pytest.approx(0.1 + 0.1 * 1 / 4),
        "p90": pytest.approx(0.2 + 0.3 * 1 / 2),
        "p99": pytest.approx(0.2 + 0.3 * 1.9 / 2),
    },
    "inter_token_latency": {
        "count": 40,
        "p50": pytest.approx(0.05),
        "p90": pytest.approx(0.09),
        "p99": pytest.approx(0.099),
    },
    "queue_time": {"count": 0, "p50": None, "p90": None, "p99": None},
}


def test_a_first_look_counts_from_the_start() -> None:
    look = Activity.of(Scrape.parse(page())).as_dict()
    assert look["now"] == {
        "running": 3,
        "waiting": 2,
        "slots": 4,
        "kv_used_tokens": 256,
        "kv_max_tokens": 1024,
        "cost_ratio": 0.125,
    }
    assert look["total"] == REQUESTS
    assert look["lately"] is None


def test_a_second_look_counts_what_came_since() -> None:
    first = Activity.of(Scrape.parse(page()))
    second = Activity.of(Scrape.parse(page(2)), first, 4.0).as_dict()
    rates = {"seconds": 4.0, "requests_per_second": 2.5, "tokens_per_second": 25.0}
    assert second["lately"] == REQUESTS | rates
    assert second["total"]["requests"] == {"length": 10, "stop": 10}


def test_a_server_without_requests_has_no_rates() -> None:
    first = Activity.of(Scrape.parse(page()))
    lately = Activity.of(Scrape.parse(page()), first, 2.0).as_dict()["lately"]
    assert lately["tokens_per_second"] == 0
    assert lately["requests"] == lately["rules"] == {}
    assert lately["acceptance_rate"] is lately["tokens_per_target_call"] is lately["inter_token_latency"]["p50"] is None


def test_a_server_that_began_anew_is_not_subtracted_from() -> None:
    first = Activity.of(Scrape.parse(page(2)))
    assert Activity.of(Scrape.parse(page()), first, 2.0).lately is None


@pytest.mark.parametrize(
    ("counts", "quantile"),
    [
        ({0.1: 0.0, 0.2: 4.0, float("inf"): 4.0}, 0.15),
        ({0.1: 2.0, 0.2: 2.0, float("inf"): 4.0}, 0.1),
        ({0.1: 0.0, 0.2: 0.0, float("inf"): 4.0}, 0.2),  # beyond every bound: at least the last one
        ({0.1: 0.0, float("inf"): 0.0}, None),
        ({}, None),
    ],
)
def test_a_median_is_prometheus_own(counts: dict[float, float], quantile: float | None) -> None:
    assert Histogram(counts).quantile(0.5) == (quantile if quantile is None else pytest.approx(quantile))


def test_every_metric_that_is_read_is_published() -> None:
    labels = {family.name: family.labels for family in FAMILIES}
    kinds = {family.name: family.kind for family in FAMILIES}
    for name, read in activity.LABELS.items():
        assert (kinds[name], labels[name]) == ("counter", read)
    assert {kinds[name] for name in activity.HISTOGRAMS} == {"histogram"}
    assert {kinds[name] for name in activity.GAUGES} == {"gauge"}


def test_labels_are_unescaped() -> None:
    scrape = Scrape.parse('a_b{x="1,2} \\"q\\" \\\\ \\n",y="",} 1e3 1700000000\nc +Inf\n\nd{} 2')
    assert scrape.by("a_b", "x") == {'1,2} "q" \\ \n': 1000.0}
    assert scrape.by("a_b", "y") == {"": 1000.0}
    assert (scrape.total("c"), scrape.total("d"), scrape.total("e")) == (float("inf"), 2.0, 0.0)


@contextmanager
def serving(*pages: str, status: int = 200) -> Iterator[str]:
    """A metrics endpoint that shows these pages, the last one from then on."""
    left = list(pages)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = left.pop(0) if len(left) > 1 else left[0]
            self.send_response(status if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return CliRunner(env={"COLUMNS": "100"}).invoke(app, ["stats", *arguments])


def test_one_look_as_json() -> None:
    with serving(page()) as url:
        result = run(url, "--once", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["total"] == REQUESTS


def test_looks_go_on_until_the_server_is_gone() -> None:
    with serving(page(), page(3), "gone") as url:
        result = run(url, "--json", "--every", "0.1")
    assert result.exit_code == 1
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["lately"] is None
    assert second["lately"]["requests"] == {"length": 10, "stop": 10}
    assert second["lately"]["seconds"] >= 0.1
    assert "is no metrics endpoint" in result.stderr


def test_one_screen_says_it_all() -> None:
    with serving(page()) as url:
        result = run(url, "--once")
    assert result.exit_code == 0
    rows = dict(line.rstrip().split("  ", 1) for line in result.stdout.splitlines() if "  " in line.strip())
    cells = {name.strip(): cell.strip() for name, cell in rows.items() if name.strip()}
    assert "3 of 4 slots, 2 waiting, KV 25% (256 of 1024 tokens), cost ratio 0.125" in result.stdout
    assert cells["requests"] == "10"
    assert cells["tokens per target call"] == "2.00"
    assert cells["drafts accepted"] == "60%"
    assert cells["drafter failures"] == "1"
    assert cells["time to first token, p50 p90 p99"] == "125.0 ms  350.0 ms  485.0 ms"
    assert cells["in the queue, p50 p90 p99"] == "-  -  -"
    assert "  token_v3 " in result.stdout
    assert "83% of 7 requests" in result.stdout
    assert len(result.stdout.splitlines()) < 25


def test_a_terminal_shows_each_look_in_the_place_of_the_one_before() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, height=40)
    with serving(page(), page(3), "gone") as url, pytest.raises(ServerError, match="is no metrics endpoint"):
        show(url, console, every=0.1, once=False, as_json=False)
    assert isinstance(console.file, io.StringIO)
    shown = Text.from_ansi(console.file.getvalue()).plain
    assert "since the start" in shown
    assert re.search(r"requests +\d+\.\d per second +30\b", shown)


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [
        ("nv_gpu_utilization 0\n", 200, "has metrics, but none of the spec-cascade models"),
        ("<html>hello</html>", 200, "is no metrics endpoint"),
        ('a{b="c} 1', 200, "is no metrics endpoint"),
        ("", 404, "HTTP status 404: metrics have a port of their own, by default 8002"),
    ],
)
def test_what_is_not_ours_is_one_line(text: str, status: int, message: str) -> None:
    with serving(text, status=status) as url, pytest.raises(ServerError, match=message):
        fetch(url)


def test_nobody_there_is_one_line() -> None:
    result = run("http://127.0.0.1:1", "--once")
    assert result.exit_code == 1
    assert result.stderr == "spec-cascade: cannot connect to http://127.0.0.1:1/metrics: Connection refused\n"
    with pytest.raises(NoConnectionError):
        fetch("http://127.0.0.1:1")


def test_metrics_are_asked_for_over_http() -> None:
    with pytest.raises(InvalidRequestError, match="over http"):
        fetch("grpc://127.0.0.1:8001")
