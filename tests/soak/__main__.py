"""Soaks the embedded engine: `python -m tests.soak --minutes 30 --json soak.json`.

Clients of every kind send a random mixture of requests as fast as they are served, while the drafter, and sometimes the
target, fails. At the end nothing may be left: no request, no slot, no cached token, and memory must not have grown by
`verdict.GROWTH_LIMIT_MIB` in the second half. The exit code is 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path
from threading import Event, Thread

import psutil
import torch
from rich.console import Console

from tests.soak.clients import Client, Tally
from tests.soak.faults import Gremlin
from tests.soak.rig import Rig, rig
from tests.soak.verdict import GROWTH_LIMIT_MIB, Sample, broken_promises, growth_mib, report

_DRAIN_SECONDS = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    # Planned failures are logged with their tracebacks; thousands of these would hide the lines that matter.
    logging.getLogger("spec_cascade").setLevel(logging.CRITICAL)
    console = Console(width=160, highlight=False)
    soaked = rig()
    tally, samples = Tally(), list[Sample]()
    try:
        _soak(soaked, tally, samples, console, options)
        drained = _drain(soaked)
    finally:
        soaked.engine.close()
    statistics = soaked.engine.statistics()
    broken = broken_promises(soaked, tally, statistics, samples)
    broken += [] if drained else [f"not drained after {_DRAIN_SECONDS:.0f} s"]
    if options.json is not None:
        options.json.write_text(json.dumps(report(soaked, tally, samples, broken), indent=1) + "\n")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(tally.counts.items()))
    grown = f"{growth_mib(samples):+.1f} MiB in the second half (limit {GROWTH_LIMIT_MIB:.0f})"
    console.print(f"{counts}; {statistics.num_rounds} rounds; {soaked.target.num_raised} target failures; {grown}")
    for what in broken:
        console.print(f"BROKEN: {what}", markup=False)
    console.print("passed" if not broken else "failed")
    return 1 if broken else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="how long; default 30")
    parser.add_argument("--clients", type=int, default=12, help="requests at a time; default 12")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; default 2")
    parser.add_argument("--seed", type=int, default=0, help="of the mixture; default 0")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write figures and all samples")
    return parser.parse_args(arguments)


def _soak(soaked: Rig, tally: Tally, samples: list[Sample], console: Console, options: argparse.Namespace) -> None:
    """Let the clients and the failures loose, and look on."""
    stop, seconds = Event(), 60 * options.minutes
    threads: list[Thread] = [Client(soaked, tally, stop, options.seed * 1000 + i) for i in range(options.clients)]
    threads += [Gremlin(soaked, stop, options.seed)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    every = min(10.0, seconds / 8)
    for tick in range(1, round(seconds / every) + 1):
        time.sleep(max(0.0, start + tick * every - time.monotonic()))
        samples.append(_sample(soaked, tally, time.monotonic() - start))
        console.print(samples[-1].line())
    stop.set()
    for thread in threads:
        thread.join(_DRAIN_SECONDS)
        if thread.is_alive():
            tally.complain(f"{thread.name} still waits for an answer")


def _sample(soaked: Rig, tally: Tally, seconds: float) -> Sample:
    statistics = soaked.engine.statistics()
    return Sample(
        seconds=seconds,
        submitted=tally.counts["submitted"],
        refused=tally.counts["refused"],
        tokens=tally.counts["tokens"],
        failures=statistics.num_drafter_failures,
        rss_mib=psutil.Process().memory_info().rss / 2**20,
        running=statistics.num_running,
        waiting=statistics.num_waiting,
    )


def _drain(soaked: Rig) -> bool:
    """Wait for the requests whose clients have gone; whether all ended."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    while time.monotonic() < deadline:
        statistics = soaked.engine.statistics()
        if statistics.num_running == 0 and statistics.num_waiting == 0:
            return True
        time.sleep(0.05)
    return False


if __name__ == "__main__":
    sys.exit(main())
