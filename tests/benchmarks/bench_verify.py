"""Verification in microseconds: reference, fused kernels, and softmax-then-reject, over B x K x V.

    python -m tests.benchmarks.bench_verify --device cpu --quick
    python -m tests.benchmarks.bench_verify --device cuda

``bytes`` are the logits read once, ``B (2K + 1) V`` numbers: the least that any verifier must read when all rows count.
TB/s and the share of the copy bandwidth, measured in the same run, are of those bytes; a cell whose logits fit into the
cache is given fresh inputs for every call. The reference waits for the host and so is timed outside CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import parse_rule
from spec_cascade.verify import BatchSampling
from spec_cascade.verify.reference import verify as verify_by_reference
from tests.benchmarks.baseline import softmax_then_reject
from tests.benchmarks.timing import copy_bandwidth, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

GRID = ((1, 2, 4, 8, 16, 32, 64), (1, 4, 8, 16), (32000, 128256, 151936))
QUICK = ((1, 8), (1, 4), (32000,))
TYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BASELINE = "softmax, then reject"
RULES = ("strict", "token_v3:alpha=0.8", "opt:alpha=0.1")
RESULTS = Path(__file__).parent / "results"
# Inputs are rotated through until they outgrow any cache by far.
_ROTATED_BYTES = 256 * 2**20
_MOST_COPIES = 1024


@dataclass(frozen=True)
class Cell:
    """One line of the table."""

    batch: int
    length: int
    vocab: int
    rule: str
    what: str
    microseconds: float
    bytes: int
    terabytes_per_second: float
    copy_share: float


@dataclass(frozen=True)
class Inputs:
    """The tensors of a round."""

    draft_tokens: Tensor
    draft_logits: Tensor
    target_logits: Tensor
    uniforms: Tensor

    @classmethod
    def random(cls, batch: int, length: int, vocab: int, dtype: torch.dtype, device: torch.device) -> Inputs:
        """Rows that agree about half of the time."""
        target = torch.randn(batch, length + 1, vocab, device=device).mul_(3).to(dtype)
        draft = (target[:, :length] + torch.randn(batch, length, vocab, device=device, dtype=dtype)).contiguous()
        tokens = torch.multinomial(draft.float().softmax(-1).flatten(0, 1), 1).view(batch, length)
        uniforms = torch.rand(batch, length + 1, 2, dtype=torch.float64, device=device)
        return cls(tokens, draft, target, uniforms)


def works(
    inputs: Sequence[Inputs], rule: str, device: torch.device, what: str, tile: int | None
) -> list[Callable[[], object]]:
    """The verifier ``what``, once per inputs."""
    batch = inputs[0].draft_tokens.shape[0]
    if what == BASELINE:
        return [
            lambda i=i: softmax_then_reject(i.draft_tokens, i.draft_logits, i.target_logits, i.uniforms)  # type: ignore[misc]
            for i in inputs
        ]
    rules = [parse_rule(rule)] * batch
    sampling = BatchSampling.of([SamplingParams()] * batch, device)
    if what == "reference":
        return [
            lambda i=i: verify_by_reference(  # type: ignore[misc]
                i.draft_tokens, i.draft_logits, i.target_logits, rules, sampling, i.uniforms
            )
            for i in inputs
        ]
    from spec_cascade.verify.fused import RuleTable, launch

    table = RuleTable.of(rules, inputs[0].draft_tokens)
    return [
        lambda i=i: launch(i.draft_tokens, i.draft_logits, i.target_logits, table, sampling, i.uniforms, tile=tile)  # type: ignore[misc]
        for i in inputs
    ]


def measure(
    shape: tuple[int, int, int], options: argparse.Namespace, device: torch.device, bandwidth: float
) -> list[Cell]:
    """All verifiers at one B x K x V."""
    batch, length, vocab = shape
    dtype = TYPES[options.dtype]
    size = batch * (2 * length + 1) * vocab * dtype.itemsize
    copies = min(max(_ROTATED_BYTES // size, 1), _MOST_COPIES) if device.type == "cuda" else 1
    inputs = [Inputs.random(*shape, dtype, device) for _ in range(copies)]
    cells = []
    for what in (BASELINE, "reference", "kernels"):
        if what == "kernels" and device.type != "cuda":
            continue
        for rule in ("strict",) if what == BASELINE else options.rules:
            todo = works(inputs, rule, device, what, options.tile)
            # Launched call by call, timed by the clock: what waits for the host cannot be captured.
            taken = _eager(todo) if what == "reference" and device.type == "cuda" else seconds(todo, device)
            cells.append(
                Cell(batch, length, vocab, rule, what, taken * 1e6, size, size / taken / 1e12, size / taken / bandwidth)
            )
    return cells


def _eager(todo: Sequence[Callable[[], object]]) -> float:
    def waited(work: Callable[[], object]) -> Callable[[], object]:
        def call() -> None:
            work()
            torch.cuda.synchronize()

        return call

    return seconds([waited(work) for work in todo[:4]], torch.device("cpu"))


def needed_bytes(shape: tuple[int, int, int], dtype: torch.dtype) -> int:
    """Memory that a cell takes at its peak: the logits, and what torch's softmaxes write, in float32."""
    batch, length, vocab = shape
    numbers = batch * (2 * length + 1) * vocab
    return numbers * (2 * dtype.itemsize + 5 * 4)


def machine(device: torch.device) -> dict[str, str]:
    """Where the numbers come from."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    triton = version("triton") if find_spec("triton") else "none"
    return {"device": name, "torch": torch.__version__, "triton": triton, "python": platform.python_version()}


def main() -> None:
    """Measure, print, and write down."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.bench_verify", description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--quick", action="store_true", help="a small grid")
    parser.add_argument("--dtype", choices=TYPES, default="bfloat16", help="type of the logits")
    parser.add_argument("--rules", nargs="+", default=RULES, help="rules of the reference and the kernels")
    parser.add_argument("--memory", type=float, default=None, help="GiB that a cell may take; larger ones are left out")
    parser.add_argument("--tile", type=int, default=None, help="logits per program of the kernels, a power of two")
    parser.add_argument("--json", type=Path, default=None, help="file for the results; on a GPU in results/")
    options = parser.parse_args()
    device, dtype = torch.device(options.device), TYPES[options.dtype]
    console = Console(width=max(Console().width, 120))
    torch.manual_seed(0)

    limit = (options.memory or (48 if device.type == "cuda" else 4)) * 2**30
    bandwidth = copy_bandwidth(device)
    facts = machine(device)
    command = " ".join(["python -m tests.benchmarks.bench_verify", *sys.argv[1:]])
    console.print(f"{facts['device']}, torch {facts['torch']}, triton {facts['triton']}, {options.dtype} logits")
    console.print(f"copy bandwidth {bandwidth / 1e12:.3f} TB/s (read and written)")

    cells: list[Cell] = []
    left_out = []
    for shape in product(*(QUICK if options.quick else GRID)):
        if needed_bytes(shape, dtype) > limit:
            left_out.append("x".join(map(str, shape)))
            continue
        cells += measure(shape, options, device, bandwidth)
    console.print(_table(cells))
    if left_out:
        console.print(f"left out, more than {limit / 2**30:g} GiB: {', '.join(left_out)}")
    console.print(f"repeat with: {command}", soft_wrap=True)
    if options.json is None and device.type == "cuda":
        options.json = RESULTS / f"verify-{facts['device'].replace(' ', '-').lower()}.json"
    if options.json is not None:
        record: dict[str, Any] = {"command": command, "dtype": options.dtype, **facts}
        record |= {"copy_bytes_per_second": bandwidth, "left_out": left_out, "cells": [asdict(cell) for cell in cells]}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _table(cells: Sequence[Cell]) -> Table:
    table = Table("B", "K", "V", "rule", "verifier", "us", "bytes", "TB/s", "of copy", box=None)
    for cell in cells:
        numbers = f"{cell.microseconds:.1f}", f"{cell.bytes / 1e6:.1f} MB", f"{cell.terabytes_per_second:.4f}"
        shape = map(str, (cell.batch, cell.length, cell.vocab))
        table.add_row(*shape, cell.rule, cell.what, *numbers, f"{cell.copy_share:.0%}")
    return table


if __name__ == "__main__":
    main()
