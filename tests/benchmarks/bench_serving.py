"""What Triton adds: one stream at a time, out of the engine in this process and out of a server on the same directory.

    python -m tests.benchmarks.bench_serving ENGINE_DIR --json tests/benchmarks/results/serving.json

In every repetition each way answers the same request once, the others idle, in an order that changes from one to the
next; what counts is what two ways differ by within a repetition, and its median. All ways must give the same tokens. In
process a request is its token ids; over gRPC and HTTP it is text, which the ensemble splits and puts together again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING

import torch
from rich.console import Console
from rich.table import Table

from spec_cascade.bench.machine import machine, now, versions
from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines import open_engine
from spec_cascade.engines.manifest import Manifest
from spec_cascade.rules import parse_rule
from spec_cascade.serving.server import TritonServer
from spec_cascade_client import Client, Options

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spec_cascade.engines.protocol import Engine

PROMPT = "The sky is blue because"
IN_PROCESS = "in process"
LEAST_RATIO = 0.90
MOST_ADDED_MS = 15.0
WARM_UPS = 2
# Threads that wait for work go on spinning for a while, and would take a core from whoever comes next.
PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Run:
    """One request: what it gave, seconds until its first tokens, and until its end."""

    token_ids: tuple[int, ...]
    first: float
    whole: float


@dataclass(frozen=True, slots=True)
class Overhead:
    """What a way adds to the engine in process, repetition by repetition.

    Attributes:
        speed_ratio: Median of its tokens per second over the engine's.
        speed_quartiles: The quartiles of that ratio.
        added_first_token_ms: Median of its time to first token less the engine's.
        added_quartiles: The quartiles of that difference.
        meets_goals: Whether both medians are within the goals.
    """

    speed_ratio: float
    speed_quartiles: tuple[float, float]
    added_first_token_ms: float
    added_quartiles: tuple[float, float]
    meets_goals: bool

    @classmethod
    def of(cls, served: list[Run], engine: list[Run]) -> Overhead:
        """Compare the runs of the same repetitions, at least two."""
        pairs = list(zip(served, engine, strict=True))
        ratios = [own.whole / run.whole for run, own in pairs]
        added = [1000 * (run.first - own.first) for run, own in pairs]
        meets = median(ratios) >= LEAST_RATIO and median(added) <= MOST_ADDED_MS
        return cls(median(ratios), _quartiles(ratios), median(added), _quartiles(added), meets)


def measure(
    engine_dir: Path,
    server: TritonServer,
    *,
    tokens: int,
    repetitions: int,
    rule: str = "strict",
    draft_length: int | None = None,
) -> dict[str, list[Run]]:
    """The runs of each way.

    Raises:
        ValueError: Two runs gave different tokens, so that their times cannot be compared.
    """
    # With a seed no measurement changes the draft length.
    sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, seed=0)
    request = GenerationRequest(
        prompt_ids=tuple(Tokenizer.load(engine_dir / "tokenizer").encode_prompt(PROMPT)),
        sampling=sampling,
        rule=parse_rule(rule),
        draft_length=draft_length,
        reproducible=True,
    )
    options = Options(
        temperature=0,
        max_tokens=tokens,
        ignore_eos=True,
        seed=0,
        rule=rule,
        draft_length=draft_length,
        token_sources=False,
    )
    with ExitStack() as stack:
        engine = open_engine(engine_dir)
        stack.callback(engine.close)
        ways: dict[str, Callable[[], Run]] = {IN_PROCESS: partial(in_process, engine, request)}
        for name, url in (("gRPC", server.grpc_url), ("HTTP", server.http_url)):
            ways[name] = partial(served, stack.enter_context(Client(url)), options)
        runs = alternate(ways, repetitions)
    if len({run.token_ids for of_way in runs.values() for run in of_way}) != 1:
        raise ValueError("the ways gave different tokens: their times cannot be compared")
    return runs


def alternate(ways: dict[str, Callable[[], Run]], repetitions: int) -> dict[str, list[Run]]:
    """Each way once in every repetition; the first ones only warm up."""
    runs: dict[str, list[Run]] = {name: [] for name in ways}
    for repetition in range(-WARM_UPS, repetitions):
        names = list(ways)
        start = repetition % len(names)
        for name in names[start:] + names[:start]:
            time.sleep(PAUSE_SECONDS)
            run = ways[name]()
            if repetition >= 0:
                runs[name].append(run)
    return runs


def in_process(engine: Engine, request: GenerationRequest) -> Run:
    """One request to the engine in this process."""
    start = time.perf_counter()
    return _timed(start, (output.token_ids for output in engine.submit(request)))


def served(client: Client, options: Options) -> Run:
    """The same request, streamed through the ensemble."""
    start = time.perf_counter()
    with client.stream(PROMPT, options) as stream:
        return _timed(start, (chunk.token_ids for chunk in stream))


def _timed(start: float, rounds: Iterable[tuple[int, ...]]) -> Run:
    token_ids: list[int] = []
    first = 0.0
    for new in rounds:
        if new and not token_ids:
            first = time.perf_counter() - start
        token_ids += new
    return Run(tuple(token_ids), first, time.perf_counter() - start)


def _quartiles(values: list[float]) -> tuple[float, float]:
    low, _, high = quantiles(values, n=4, method="inclusive")
    return low, high


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, write JSON; 1 where a goal is missed."""
    options = _options(arguments)
    manifest = Manifest.read(options.engine)
    with TritonServer(options.engine) as server:
        runs = measure(
            options.engine,
            server,
            tokens=options.tokens,
            repetitions=options.repetitions,
            rule=options.rule,
            draft_length=options.draft_length,
        )
    overheads = {name: Overhead.of(runs[name], runs[IN_PROCESS]) for name in runs if name != IN_PROCESS}
    Console().print(_table(manifest.name, runs, overheads))
    if options.json is not None:
        result = {
            "command": "python -m tests.benchmarks.bench_serving",
            "pair": manifest.name,
            "rule": options.rule,
            "draft_length": options.draft_length,
            "tokens": options.tokens,
            "date": now(),
            "machine": machine(torch.device("cpu")),
            "versions": versions(),
            "goals": {"speed_ratio": LEAST_RATIO, "added_first_token_ms": MOST_ADDED_MS},
            "overheads": {name: asdict(overhead) for name, overhead in overheads.items()},
            "seconds": {
                name: [{"first_token": run.first, "whole": run.whole} for run in of_way]
                for name, of_way in runs.items()
            },
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0 if all(overhead.meets_goals for overhead in overheads.values()) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer; default 128")
    parser.add_argument("--repetitions", type=int, default=21, help="at least 2; default 21")
    parser.add_argument("--rule", default="strict")
    parser.add_argument("--draft-length", type=int, help="default: the engine's")
    parser.add_argument("--json", type=Path, metavar="FILE")
    return parser.parse_args(arguments)


def _table(pair: str, runs: dict[str, list[Run]], overheads: dict[str, Overhead]) -> Table:
    table = Table("way", "tokens/s", "of the engine's", "first token, ms", "added, ms", "goals", title=pair)
    for name, of_way in runs.items():
        speed = median(len(run.token_ids) / run.whole for run in of_way)
        first = median(1000 * run.first for run in of_way)
        cells = ["", "", ""]
        if name in overheads:
            over = overheads[name]
            cells = [
                f"{over.speed_ratio:.1%} ({over.speed_quartiles[0]:.1%} to {over.speed_quartiles[1]:.1%})",
                f"{over.added_first_token_ms:.1f} ({over.added_quartiles[0]:.1f} to {over.added_quartiles[1]:.1f})",
                "met" if over.meets_goals else "missed",
            ]
        table.add_row(name, f"{speed:.1f}", cells[0], f"{first:.1f}", cells[1], cells[2])
    return table


if __name__ == "__main__":
    sys.exit(main())
