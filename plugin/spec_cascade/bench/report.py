"""The figures as a table and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from spec_cascade.bench.machine import now, versions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.bench.samples import Reply, Run
    from spec_cascade.bench.session import Result
    from spec_cascade.bench.settings import Settings
    from spec_cascade.bench.summary import Line, Spread

FORMAT = 1
_PEERS = "transformers: sdpa attention, one stream, weights of its own in each dtype; one engine decodes at a time"
_COLUMNS = (
    "tokens/s",
    "x target only",
    "tokens\nper call",
    "drafts\nkept",
    "first\ntoken ms",
    "next\ntoken ms",
    "same\ntokens",
    "% draft/score/\nverify/host",
)


def table(lines: Sequence[Line], *, sampled: bool) -> Table:
    """One row for each number of streams and subject: medians, and ratios with their least and greatest.

    Args:
        lines: The figures.
        sampled: The temperature is above 0: other draws give other tokens, whose sameness says nothing.
    """
    rows = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    rows.add_column("at a\ntime", justify="right", no_wrap=True)
    rows.add_column("subject", no_wrap=True)
    for name in _COLUMNS:
        rows.add_column(name, justify="right", no_wrap=True)
    for i, line in enumerate(lines):
        rows.add_row(
            str(line.streams),
            escape(line.subject),
            f"{line.tokens_per_second.median:.1f}",
            "-" if line.ratio is None else spread(line.ratio),
            f"{line.tokens_per_target_call:.2f}",
            "-" if line.acceptance is None else f"{line.acceptance:.0%}",
            f"{line.first_token * 1e3:.1f}",
            "-" if line.token_gap is None else f"{line.token_gap * 1e3:.2f}",
            "-" if line.same_tokens is None or sampled else f"{line.same_tokens:.0%}",
            "/".join(f"{100 * share:.0f}" for share in line.parts.values()) or "-",
            end_section=i + 1 < len(lines) and lines[i + 1].streams != line.streams,
        )
    return rows


def spread(values: Spread) -> str:
    """``1.50 (1.41-1.58)``."""
    return f"{values.median:.2f} ({values.least:.2f}-{values.greatest:.2f})"


def notes(result: Result, settings: Settings, command: str) -> list[str]:
    """The lines under the table."""
    facts = result.machine
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    length = "the engine's default" if settings.draft_length is None else str(settings.draft_length)
    lines = [
        f"{comparison}: {spread(comparison.ratio)}"
        + ("" if settings.temperature else f", same tokens {comparison.same_tokens:.0%}")
        for comparison in result.comparisons
    ]
    lines += result.remarks
    tasks = len(result.runs[0].replies)
    lines += [
        f"{tasks} prompts of {settings.tokens} tokens each at temperature {settings.temperature:g}, draft length: "
        f"{length}; medians over paired repetitions ({settings.repetitions}, after {settings.warm_up} to warm up); "
        "ratios are within a repetition, with the least and the greatest",
        "next token: a chunk's wait, shared out among its tokens; same tokens: outputs equal to target only's; "
        "last column: where the time of the engine's rounds goes",
        *([_PEERS] if result.lineup.generate else []),
        f"{result.name}, {result.dtype}, {'compiled' if result.compiled else 'not compiled'}; "
        f"{facts['processor']}, {facts['cores']} cores, "
        f"{facts['torch_threads']} torch threads, {facts['memory_bytes'] / 2**30:.0f} GiB{gpu}",
        ", ".join([*(f"{name} {number}" for name, number in versions().items()), now()]),
        f"repeat with: {command}",
    ]
    return lines


def record(result: Result, settings: Settings, command: str) -> dict[str, Any]:
    """Everything as JSON, raw samples included; times in seconds, those of chunks since their request was sent."""
    return {
        "format": FORMAT,
        "command": command,
        "date": now(),
        "machine": result.machine,
        "versions": versions(),
        "engine": {
            "name": result.name,
            "dtype": result.dtype,
            "compiled": result.compiled,
            "defaults": asdict(result.defaults),
        },
        "settings": {
            **asdict(settings),
            "engine_dir": str(settings.engine_dir),
            "concurrency": list(result.concurrency),
            "rules": list(result.lineup.rules),
        },
        "remarks": list(result.remarks),
        "summary": [asdict(line) for line in result.lines],
        "comparisons": [asdict(comparison) for comparison in result.comparisons],
        "runs": [_run(run) for run in result.runs],
    }


def _run(run: Run) -> dict[str, Any]:
    return {
        "subject": run.subject,
        "streams": run.streams,
        "repetition": run.repetition,
        "position": run.position,
        "seconds": run.seconds,
        "tokens": run.tokens,
        "replies": [_reply(reply) for reply in run.replies],
    }


def _reply(reply: Reply) -> dict[str, Any]:
    return {
        "prompt": reply.prompt,
        "token_ids": list(reply.token_ids),
        "chunks": [[round(time - reply.started, 6), tokens] for time, tokens in reply.chunks],
        "target_calls": reply.target_calls,
        "drafted": reply.drafted,
        "accepted": reply.accepted,
        "parts": dict(reply.parts),
    }
