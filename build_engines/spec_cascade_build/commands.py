"""The verbs `build`, `demo` and `drafter`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from spec_cascade_build.demo.command import demo_command
from spec_cascade_build.drafter.make_command import make_command
from spec_cascade_build.drafter.score_command import score_command


def register(app: typer.Typer) -> None:
    """Add the verbs of this import root to the command."""
    app.command("build")(build_command)
    app.command("demo")(demo_command)
    drafter = typer.Typer(no_args_is_help=True, help="Make a drafter from a target, and say what a drafter is worth.")
    drafter.command("make")(make_command)
    drafter.command("score")(score_command)
    app.add_typer(drafter, name="drafter")


def build_command(
    pair: Annotated[Path, typer.Argument(metavar="PAIR.yaml", help="The pair file.")],
    output: Annotated[
        Path | None,
        typer.Option(help="The engine directory to write.", show_default="engines/<name of the pair>"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build even if the directory is up to date.")] = False,
) -> None:
    """Build the engine directory of a pair file: target, drafter, tokenizer, manifest."""
    from rich.console import Console

    from spec_cascade_build.build import build

    console = Console(stderr=True)
    start = time.monotonic()
    result = build(pair, output, console, force=force)
    seconds = time.monotonic() - start
    size = sum(entry.size for entry in result.manifest.files.values()) / 1e6
    state = "up to date" if result.up_to_date else "built"
    console.print(f"{result.directory}: {state} ({size:.0f} MB, {seconds:.1f} s)", highlight=False, soft_wrap=True)
