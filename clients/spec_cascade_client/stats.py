"""The server's metrics on one screen. Needs rich."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from spec_cascade_client import activity
from spec_cascade_client.activity import Activity, Counts
from spec_cascade_client.scrape import fetch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

NOTHING = "-"
TIMES = {
    "time to first token": activity.TIME_TO_FIRST_TOKEN,
    "between tokens": activity.INTER_TOKEN_LATENCY,
    "in the queue": activity.QUEUE_TIME,
}


def looks(url: str, every: float) -> Iterator[Activity]:
    """Look at a server now, and again each ``every`` seconds, without end.

    Raises:
        ClientError: The endpoint cannot be read.
    """
    look, at = Activity.of(fetch(url)), time.monotonic()
    while True:
        yield look
        time.sleep(max(0.0, at + every - time.monotonic()))
        scrape, now = fetch(url), time.monotonic()
        look, at = Activity.of(scrape, look, now - at), now


def show(url: str, console: Console, *, every: float, once: bool, as_json: bool) -> None:
    """Show the looks at a server: one, or on a terminal each in the place of the one before, until interrupted.

    Raises:
        ClientError: The endpoint cannot be read.
    """
    seen = looks(url, every)
    if console.is_terminal and not (once or as_json):
        # The first look before the screen is taken: its error is to be read.
        with Live(screen(url, next(seen)), console=console, auto_refresh=False, screen=True) as live:
            for look in seen:
                live.update(screen(url, look), refresh=True)
    for look in seen:
        if as_json:
            console.file.write(json.dumps(look.as_dict()) + "\n")
            console.file.flush()
        else:
            console.print(screen(url, look))
        if once:
            return


def screen(url: str, look: Activity) -> Group:
    """One look as a table of counts and a line of what is held."""
    periods = [look.total] if look.lately is None else [look.lately, look.total]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column()
    for period in periods:
        title = "since the start" if period.seconds is None else f"last {period.seconds:.1f} s"
        table.add_column(title, justify="right", min_width=24)
    for row in zip(*(_rows(period, look.total) for period in periods), strict=True):
        # Not as rich's markup: names of rules are whatever their authors call them.
        table.add_row(Text(row[0][0]), *(cell for _, cell in row))
    return Group(Text(url, "bold"), Text(_held(look.now)), Text(), table)


def _held(now: activity.Holdings) -> str:
    kv = activity.ratio(now.kv_used_tokens, now.kv_max_tokens)
    cost = f"{now.cost_ratio:.3f}" if now.cost_ratio else "not measured"
    return (
        f"{now.running} of {now.slots} slots, {now.waiting} waiting, "
        f"KV {_percent(kv)} ({now.kv_used_tokens} of {now.kv_max_tokens} tokens), cost ratio {cost}"
    )


def _rows(period: Counts, total: Counts) -> Iterator[tuple[str, str]]:
    """The same rows for every period of a server: those of all that it ever counted."""
    yield "requests", _amount(period, period.total(activity.REQUESTS))
    reasons = period.by(activity.REQUESTS, "finish_reason")
    for reason in total.by(activity.REQUESTS, "finish_reason"):
        yield f"  {reason}", str(reasons.get(reason, 0))
    yield "tokens", _amount(period, period.total(activity.OUTPUT_TOKENS))
    sources = period.by(activity.OUTPUT_TOKENS, "source")
    for source in total.by(activity.OUTPUT_TOKENS, "source"):
        share = activity.ratio(sources.get(source, 0), sum(sources.values()))
        yield f"  {source}", _percent(share)
    per_call = period.tokens_per_target_call
    yield "tokens per target call", NOTHING if per_call is None else f"{per_call:.2f}"
    yield "drafts accepted", _percent(period.acceptance_rate)
    rules = period.rules
    for rule in total.rules:
        rate = rules[rule].acceptance_rate if rule in rules else None
        requests = rules[rule].requests if rule in rules else 0
        yield f"  {rule}", f"{_percent(rate)} of {requests} requests"
    yield "drafter failures", str(period.total(activity.DRAFTER_FAILURES))
    for title, name in TIMES.items():
        quantiles = [period.histograms[name].quantile(part / 100) for part in activity.PERCENTILES]
        yield f"{title}, p50 p90 p99", "  ".join(_time(seconds) for seconds in quantiles)


def _amount(period: Counts, count: int) -> str:
    return str(count) if period.seconds is None else f"{count / period.seconds:.1f} per second"


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{share:.0%}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
