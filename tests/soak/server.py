"""Soaks a Triton server: `python -m tests.soak.server --minutes 10 --json soak.json`.

Clients over HTTP and gRPC, streaming and not, send a random mixture of requests as fast as they are served; some leave
in mid-stream, some give the server little time, some send what is wrong. At the end each request must have ended as its
client was told, no slot may be in use, and memory must not have grown beyond its bound in the second half: that of the
models by `GROWTH_LIMIT_MIB`, that of tritonserver by as much and `REFUSAL_LIMIT_KIB` for each refused request. Once the
server has stopped, none of its processes and nothing in shared memory may be left. The exit code is 1 where a promise
was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import psutil
from rich.console import Console

from spec_cascade.serving.server import TritonServer
from spec_cascade_client import ClientError
from spec_cascade_client.activity import DRAFTER_FAILURES, REQUESTS, Activity, Counts
from spec_cascade_client.scrape import fetch
from tests.built import build_tiny
from tests.soak.clients import Tally
from tests.soak.server_clients import ServerClient
from tests.soak.verdict import Sample, gained, growth_mib
from tests.triton.conftest import made, processes_of_group

if TYPE_CHECKING:
    from collections.abc import Sequence

GROWTH_LIMIT_MIB = 16.0
REFUSAL_LIMIT_KIB = 6.0
"""Triton 2.51 loses 2 to 4 KB with each error that it sends on a gRPC stream, be it its own."""
_DRAIN_SECONDS = 60.0
_JOIN_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class ServerSample(Sample):
    """The state at one moment; ``rss_mib`` is that of the Python models, ``refused`` counts bad requests too.

    Attributes:
        server_mib: Resident memory of tritonserver.
    """

    server_mib: float

    def line(self) -> str:
        """For a person."""
        return f"{Sample.line(self)}  tritonserver {self.server_mib:6.1f} MiB"


@dataclass(frozen=True, slots=True)
class Growth:
    """Memory gained in the second half, and how much of it is allowed."""

    models_mib: float
    server_mib: float
    server_limit_mib: float

    @classmethod
    def of(cls, samples: Sequence[ServerSample]) -> Growth:
        """From the samples of a run."""
        refused = gained([sample.refused for sample in samples])
        return cls(
            models_mib=growth_mib(samples),
            server_mib=gained([sample.server_mib for sample in samples]),
            server_limit_mib=GROWTH_LIMIT_MIB + refused * REFUSAL_LIMIT_KIB / 1024,
        )

    def line(self) -> str:
        """For a person."""
        return (
            f"in the second half the models grew by {self.models_mib:+.1f} MiB (limit {GROWTH_LIMIT_MIB:.0f}), "
            f"tritonserver by {self.server_mib:+.1f} MiB (limit {self.server_limit_mib:.0f})"
        )


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; return the exit code."""
    options = _options(arguments)
    console = Console(width=160, highlight=False)
    with tempfile.TemporaryDirectory() as directory:
        engine = options.engine or _build(Path(directory))
        broken, figures = soak(engine, options.minutes * 60, options.clients, options.seed, console)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    counts = ", ".join(f"{count} {name}" for name, count in sorted(figures["counts"].items()))
    console.print(f"{counts}; the server ended {figures['ended']}; {Growth(**figures['growth']).line()}", markup=False)
    for what in broken:
        console.print(f"BROKEN: {what}", markup=False)
    console.print("passed" if not broken else "failed")
    return 1 if broken else 0


def soak(engine: Path, seconds: float, clients: int, seed: int, console: Console) -> tuple[list[str], dict[str, Any]]:
    """Soak a server of its own; return what was broken, in words, and the figures."""
    tally, samples, before = Tally(), list[ServerSample](), made()
    server = TritonServer(engine)
    server.start()
    group = server.pid
    assert group is not None
    try:
        began = Counts.of(fetch(server.metrics_url))
        _run(server, tally, samples, seconds, clients, seed, console)
        last = _drained(server)
        ended = last.total.since(began, seconds)
    except ClientError as error:
        last, ended = None, None
        tally.complain(f"the metrics cannot be read: {error}")
    finally:
        died = server.pid is None
        server.stop()
    left = {"processes": processes_of_group(group), "files": sorted(made() - before)}
    reasons = {} if ended is None else ended.by(REQUESTS, "finish_reason")
    broken = [*tally.broken, *broken_promises(tally, reasons, last, samples)]
    broken += ["the server died"] if died else []
    broken += [f"{what} are left: {which}" for what, which in left.items() if which]
    return broken, {
        "seconds": seconds,
        "counts": dict(tally.counts),
        "ended": reasons,
        "growth": asdict(Growth.of(samples)),
        "broken": broken,
        "samples": [asdict(sample) for sample in samples],
    }


def broken_promises(
    tally: Tally, ended: dict[str, int], last: Activity | None, samples: Sequence[ServerSample]
) -> list[str]:
    """What does not hold, in words.

    Args:
        tally: What the clients saw.
        ended: Requests that the server counted as ended, by reason.
        last: What the server said when its clients were gone.
        samples: Its memory among them.
    """
    counts, grown = tally.counts, Growth.of(samples)
    whole = ended.get("length", 0) + ended.get("cancelled", 0)
    checks = {
        "no request was answered": counts["length"] > 0,
        f"{ended.get('error', 0)} requests failed": ended.get("error", 0) == 0,
        f"{ended.get('timeout', 0)} requests timed out, {counts['timeout']} clients were told so": (
            ended.get("timeout", 0) == counts["timeout"]
        ),
        f"{whole} requests ran to their length or were cancelled; of {counts['length']} and {counts['left']}": (
            whole == counts["length"] + counts["left"]
        ),
        grown.line(): grown.models_mib < GROWTH_LIMIT_MIB and grown.server_mib < grown.server_limit_mib,
    }
    if last is not None:
        held = (last.now.running, last.now.waiting, last.now.kv_used_tokens)
        checks[f"{held} requests run, requests wait, tokens are cached"] = held == (0, 0, 0)
    return [what for what, holds in checks.items() if not holds]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak.server", description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long; default 10")
    parser.add_argument("--clients", type=int, default=10, help="requests at a time; default 10")
    parser.add_argument("--seed", type=int, default=0, help="of the mixture; default 0")
    parser.add_argument("--engine", type=Path, help="engine directory; default: a tiny one, built for the soak")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write figures and all samples")
    return parser.parse_args(arguments)


def _build(directory: Path) -> Path:
    # A short queue, so that some requests find it full.
    defaults = {"rule": "strict", "max_seq_len": 256, "max_batch_size": 4, "max_queue_size": 4}
    return build_tiny(directory, defaults=defaults)


def _run(
    server: TritonServer,
    tally: Tally,
    samples: list[ServerSample],
    seconds: float,
    clients: int,
    seed: int,
    console: Console,
) -> None:
    """Let the clients loose, and look on."""
    stop = Event()
    threads = [ServerClient(server, tally, stop, seed * 1000 + i) for i in range(clients)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    every = min(10.0, seconds / 8)
    try:
        for tick in range(1, round(seconds / every) + 1):
            time.sleep(max(0.0, start + tick * every - time.monotonic()))
            samples.append(_sample(server, tally, time.monotonic() - start))
            console.print(samples[-1].line())
    finally:
        stop.set()
        for thread in threads:
            thread.join(_JOIN_SECONDS)
            if thread.is_alive():
                tally.complain(f"{thread.name} still waits for an answer")


def _sample(server: TritonServer, tally: Tally, seconds: float) -> ServerSample:
    look, group = Activity.of(fetch(server.metrics_url)), server.pid or 0
    return ServerSample(
        seconds=seconds,
        submitted=tally.counts["submitted"] + tally.counts["left"],
        refused=tally.counts["refused"] + tally.counts["invalid"],
        tokens=tally.counts["tokens"],
        failures=look.total.total(DRAFTER_FAILURES),
        rss_mib=sum(_resident_mib(process) for process in processes_of_group(group) if process != group),
        running=look.now.running,
        waiting=look.now.waiting,
        server_mib=_resident_mib(group),
    )


def _resident_mib(process: int) -> float:
    try:
        return float(psutil.Process(process).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def _drained(server: TritonServer) -> Activity:
    """The server once the requests whose clients have gone have ended, or as it is when that takes too long."""
    deadline = time.monotonic() + _DRAIN_SECONDS
    look = earlier = Activity.of(fetch(server.metrics_url))
    while time.monotonic() < deadline:
        time.sleep(0.5)
        earlier, look = look, Activity.of(fetch(server.metrics_url))
        # Twice the same: what was counted has been published.
        if look == earlier and look.now.running == look.now.waiting == 0:
            break
    return look


if __name__ == "__main__":
    sys.exit(main())
