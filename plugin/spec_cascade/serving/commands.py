"""The verb `serve`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spec_cascade.serving.server import LOOPBACK, START_TIMEOUT_SECONDS, TritonServer

if TYPE_CHECKING:
    from types import FrameType


class _Stopped(BaseException):
    """A signal asked the command to end; no error handler on the way may mistake it for a failure."""


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("serve")(serve)


def serve(
    engine_dir: Annotated[Path, typer.Argument(help="The engine directory that spec-cascade build wrote.")],
    http_port: Annotated[int, typer.Option(help="0 takes a free port.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="0 takes a free port.")] = 8001,
    metrics_port: Annotated[int, typer.Option(help="0 takes a free port.")] = 8002,
    host: Annotated[str, typer.Option(help="Address for HTTP and gRPC; 0.0.0.0 for all.")] = LOOPBACK,
    metrics_host: Annotated[str, typer.Option(help="Address for metrics; 0.0.0.0 for all.")] = LOOPBACK,
    policy: Annotated[
        Path | None, typer.Option(help="What requests may ask for.", show_default="$SPEC_CASCADE_POLICY, else anything")
    ] = None,
    model_repository: Annotated[
        Path | None, typer.Option(help="Triton's models.", show_default="those of this package")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="The server's log.", show_default="standard error")] = None,
    start_timeout: Annotated[
        float, typer.Option(help="Seconds until the models must be ready.")
    ] = START_TIMEOUT_SECONDS,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log what the server does, not only failures.")] = False,
) -> None:
    """Serve an engine with Triton, over HTTP and gRPC, until interrupted."""
    from rich.console import Console

    console = Console(stderr=True)
    server = TritonServer(
        engine_dir,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        host=host,
        metrics_host=metrics_host,
        policy_file=policy,
        model_repository=model_repository,
        log_file=log_file,
        echo_log=log_file is None,
        verbose=verbose,
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _raise_stopped)
    try:
        with console.status("starting tritonserver"):
            server.start(start_timeout)
        console.print(
            f"ready: {server.http_url}  {server.grpc_url}  {server.metrics_url}", highlight=False, soft_wrap=True
        )
        server.wait()
    except _Stopped:
        console.print("stopping", highlight=False)
    finally:
        # A second signal must not interrupt the clean-up.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        server.stop()


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped
