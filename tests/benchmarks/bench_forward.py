"""One forward of a target, three ways: as it is, `torch.compile`, and compiled as `spec-cascade build` does it.

    python -m tests.benchmarks.bench_forward ENGINE_DIR --json tests/benchmarks/results/forward.json

In every repetition each way runs once on the same tokens, in an order that changes from one to the next; what counts is
the ratio to the model as it is within a repetition, and its median. On the CPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from spec_cascade.bench.machine import machine, now, versions
from spec_cascade.decoding.models import Feed
from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.pytorch.compiled import COMPILED_ATTENTION, CompiledForward, Forward, compile_model
from spec_cascade.engines.pytorch.load import DTYPES, load_target
from spec_cascade.engines.pytorch.model import CachedModel

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CPU = torch.device("cpu")
# Sequences, and tokens of each: plain decoding, a block to score, eight streams of each, a prompt.
SHAPES = ((1, 1), (1, 5), (8, 1), (8, 5), (1, 128))
CONTEXT = 128
EAGER = "as it is"


def ways(model: PreTrainedModel) -> dict[str, CachedModel]:
    """The same model, ready to run in each way; compiles it twice."""
    slots, longest = max(n for n, _ in SHAPES), 2 * CONTEXT
    inner = deepcopy(model)
    inner.set_attn_implementation(COMPILED_ATTENTION)
    just_in_time = CompiledForward(torch.compile(Forward(inner), dynamic=True, options={"freezing": True}))
    with tempfile.TemporaryDirectory() as directory:
        package = Path(directory) / "compiled.pt2"
        compile_model(model, package)
        ahead = CompiledForward.load(package)
    forwards = {EAGER: None, "torch.compile": just_in_time, "ahead of time": ahead}
    return {
        name: CachedModel(model, slots=slots, max_seq_len=longest, compiled=forward)
        for name, forward in forwards.items()
    }


def measure(models: dict[str, CachedModel], repetitions: int) -> list[dict[str, Any]]:
    """Seconds of each way at each shape, repetition by repetition; the first three only warm up."""
    lines = []
    for sequences, tokens in SHAPES:
        taken: dict[str, list[float]] = {name: [] for name in models}
        for repetition in range(-3, repetitions):
            names = list(models)
            start = repetition % len(names)
            for name in names[start:] + names[:start]:
                seconds = one(models[name], sequences, tokens)
                if repetition >= 0:
                    taken[name].append(seconds)
        lines.append({"sequences": sequences, "tokens": tokens, "seconds": taken})
    return lines


def one(model: CachedModel, sequences: int, tokens: int) -> float:
    """Seconds of one forward behind `CONTEXT` tokens of each sequence."""
    model.cache.lengths[:sequences] = [CONTEXT] * sequences
    feeds = [Feed(slot, [1 + slot + k for k in range(tokens)], rows=min(tokens, 8)) for slot in range(sequences)]
    start = time.perf_counter()
    model.forward(feeds)
    return time.perf_counter() - start


def speed_up(line: dict[str, Any], name: str) -> float:
    """Median over the repetitions of the ratio to the model as it is."""
    pairs = zip(line["seconds"][EAGER], line["seconds"][name], strict=True)
    return median(eager / other for eager, other in pairs)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", type=Path)
    parser.add_argument("--repetitions", type=int, default=25)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    manifest = Manifest.read(options.engine)
    model = load_target(options.engine / "target", DTYPES[manifest.target.dtype], CPU)
    models = ways(model)
    lines = measure(models, options.repetitions)
    table = Table("sequences", "tokens of each", *models, title=f"{manifest.name}: speed-up, {manifest.target.dtype}")
    for line in lines:
        shape = (str(line["sequences"]), str(line["tokens"]))
        table.add_row(*shape, *(f"{speed_up(line, name):.2f}x" for name in models))
    Console().print(table)
    if options.json is not None:
        result = {
            "command": "python -m tests.benchmarks.bench_forward",
            "pair": manifest.name,
            "dtype": manifest.target.dtype,
            "date": now(),
            "machine": machine(CPU),
            "versions": versions(),
            "speed_up": [
                {"sequences": line["sequences"], "tokens": line["tokens"]}
                | {name: round(speed_up(line, name), 3) for name in models}
                for line in lines
            ],
            "lines": lines,
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
