"""Each rule on the same prompt, through the running server."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from spec_cascade_client import Options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from spec_cascade_client import Client, Message, Result

# A slow machine does with fewer.
MOST_RUNS, FEWEST_RUNS = 3, 2
ENOUGH_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """One rule's runs.

    Attributes:
        rule: As it was asked for.
        result: What it answered; greedy runs of one rule answer alike.
        seconds: Of each run, from the request to its last token.
    """

    rule: str
    result: Result
    seconds: tuple[float, ...]

    @property
    def runs(self) -> int:
        """How many there were."""
        return len(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """By the median run."""
        return len(self.result.token_ids) / median(self.seconds)


def measure(
    client: Client, messages: Sequence[Message], rules: Sequence[str], *, max_tokens: int, console: Console
) -> list[Measurement]:
    """Run every rule some times, greedily; the rules take turns, so that a slow minute hits all alike."""
    seconds: dict[str, list[float]] = defaultdict(list)
    results: dict[str, Result] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("Measuring", total=MOST_RUNS * len(rules))
        started = time.perf_counter()
        for run in range(MOST_RUNS):
            if run >= FEWEST_RUNS and time.perf_counter() - started > ENOUGH_SECONDS:
                break
            for rule in rules:
                progress.update(task, description=f"Measuring {rule}")
                options = Options(rule=rule, temperature=0, max_tokens=max_tokens, token_sources=False)
                start = time.perf_counter()
                results[rule] = client.stream(messages, options).result()
                seconds[rule].append(time.perf_counter() - start)
                progress.advance(task)
    return [Measurement(rule, results[rule], tuple(seconds[rule])) for rule in rules]


def table(measurements: Sequence[Measurement]) -> Table:
    """One row a rule; the first is what the others are compared with."""
    baseline = measurements[0]
    columns = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    columns.add_column("rule", no_wrap=True)
    for name in ("tokens", "tokens\nper call", "acceptance", "tokens/s", "speed"):
        columns.add_column(name, justify="right", no_wrap=True)
    columns.add_column("target's\ntext", no_wrap=True)
    for row in measurements:
        statistics = row.result.statistics
        departure = _departure(row, baseline)
        columns.add_row(
            row.rule,
            str(len(row.result.token_ids)),
            f"{statistics.tokens_per_target_call:.2f}",
            f"{statistics.draft_acceptance_rate:.0%}" if statistics.num_draft_tokens else "-",
            f"{row.tokens_per_second:.1f}",
            f"{row.tokens_per_second / baseline.tokens_per_second:.2f}x",
            "all" if departure is None else f"{departure} tokens",
        )
    return columns


def remarks(measurements: Sequence[Measurement]) -> list[str]:
    """What a reader of the table would otherwise wonder about."""
    strays = [
        m.rule for m in measurements if not m.result.statistics.lossy and _departure(m, measurements[0]) is not None
    ]
    if not strays:
        return []
    return [
        f"{', '.join(strays)}: lossless; a block's rows and a single row round differently, which decides between "
        "tokens that the target finds equally good"
    ]


def _departure(row: Measurement, baseline: Measurement) -> int | None:
    """How many tokens a text shares with the target's own before it departs; None where it never does."""
    ours, theirs = row.result.token_ids, baseline.result.token_ids
    if ours == theirs:
        return None
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
