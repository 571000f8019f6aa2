"""The verb `demo`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade_build.demo.scenes import Scene

SHOWN_TOKENS = 48
MEASURED_TOKENS = 16
INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, by the shell's convention."""


def demo_command(
    pair: Annotated[
        Path | None,
        typer.Argument(
            metavar="PAIR.yaml", help="Show this pair.", show_default="SmolLM2, pruned and with prompt lookup"
        ),
    ] = None,
    engines: Annotated[Path, typer.Option(help="Where the engine directories are, or will be.")] = Path("engines"),
    color: Annotated[bool | None, typer.Option(help="Colour tokens by who wrote them; default: on a terminal.")] = None,
) -> None:
    """Build engine pairs, serve them with a real Triton server, ask over gRPC and HTTP, compare deferral rules."""
    from spec_cascade_build.demo.scenes import SCENES, scene_of
    from spec_cascade_build.demo.server import DemoError, interrupted_by_sigterm
    from spec_cascade_client import ClientError
    from spec_cascade_client.console import make_console

    console = make_console(color=color)
    try:
        with interrupted_by_sigterm():
            for scene in SCENES if pair is None else [scene_of(pair)]:
                conditions = _play(scene, engines, console)
            for line in conditions:
                console.print(line, style="dim", soft_wrap=True)
    except ClientError as error:
        raise DemoError(f"the server did not answer as it should: {error}") from error
    except KeyboardInterrupt:
        console.print("\nInterrupted; nothing is left running.")
        raise typer.Exit(INTERRUPTED) from None


def _play(scene: Scene, engines: Path, console: Console) -> list[str]:
    from spec_cascade_build.build import build
    from spec_cascade_build.demo.machine import description
    from spec_cascade_build.demo.server import running_server
    from spec_cascade_build.pair import load_pair

    pair = load_pair(scene.pair)
    console.rule(f"[bold]{pair.name}", align="left")
    if scene.about:
        console.print(scene.about, end="\n\n")
    engine = build(scene.pair, engines / pair.name, console)
    console.print(f"engine pair  {engine.directory}, {'up to date' if engine.up_to_date else 'built'}", soft_wrap=True)
    start = time.monotonic()
    with running_server(engine.directory, console) as server:
        console.print(f"server       {server.grpc_url}, {server.http_url}, ready in {time.monotonic() - start:.1f} s")
        urls = {"gRPC": server.grpc_url, "HTTP": server.http_url}
        _ask(scene, urls, console)
        conditions = description(server.http_url)
    console.print("server       stopped; no process, port or shared memory of it left\n")
    return conditions


def _ask(scene: Scene, urls: dict[str, str], console: Console) -> None:
    from spec_cascade_build.demo.conversation import show_answer, show_legend
    from spec_cascade_build.demo.measure import measure, remarks, table
    from spec_cascade_client import Client, Message, Options

    messages = [Message(role="user", content=scene.question)]
    console.print(f"question     {scene.question}")
    options = Options(rule=scene.shown_rule, max_tokens=SHOWN_TOKENS, temperature=0)
    for protocol in scene.protocols:
        console.print(f"\n[bold]answer over {protocol}[/bold]")
        show_answer(urls[protocol], messages, options, console)
    console.print()
    show_legend(console)
    console.print()
    with Client(urls["gRPC"]) as client:
        rows = measure(client, messages, scene.rules, max_tokens=MEASURED_TOKENS, console=console)
    console.print(table(rows))
    how = f"greedy, at most {MEASURED_TOKENS} tokens, one request at a time over gRPC, median of {rows[0].runs} runs"
    for line in [how, *remarks(rows)]:
        console.print(line, style="dim", soft_wrap=True)
