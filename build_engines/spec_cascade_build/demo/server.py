"""A server for as long as the demo needs it, and the proof that nothing of it stays."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spec_cascade.serving.server import TritonServer
from spec_cascade_build.demo.leftovers import Footprint, own_shared_memory
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import FrameType

    from rich.console import Console


class DemoError(BuildError):
    """The demo could not be shown, or left something behind."""


@contextmanager
def running_server(engine_dir: Path, console: Console) -> Iterator[TritonServer]:
    """Serve an engine directory on free ports inside a `with` block.

    Raises:
        DemoError: Something of the server is still there after it stopped.
    """
    before = own_shared_memory()
    server = TritonServer(engine_dir)
    footprint = None
    try:
        with step(console, "Starting tritonserver"):
            server.start()
        footprint = Footprint(server.pid, (server.http_url, server.grpc_url, server.metrics_url), before)
        yield server
    finally:
        with _uninterrupted(), step(console, "Stopping tritonserver"):
            server.stop()
        if footprint is not None and (left := footprint.leftovers()):
            raise DemoError(f"the server left behind: {', '.join(left)}")


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what runs is stopped."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignore a further Ctrl-C while what the first one asked for is done."""
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
