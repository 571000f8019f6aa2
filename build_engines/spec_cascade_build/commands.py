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
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Only check the pair, without a GPU and without weights; status 1 if it is wrong."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and print every command and file of the build; write nothing.")
    ] = False,
    configs: Annotated[
        Path | None,
        typer.Option(
            help="With --check or --dry-run: where ORGANISATION/NAME/config.json of hub models are, for machines "
            "without a network.",
            show_default="$SPEC_CASCADE_CONFIGS, else the hub",
        ),
    ] = None,
) -> None:
    """Build the engine directory of a pair file: target, drafter, tokenizer, manifest."""
    from rich.console import Console

    from spec_cascade_build import checking
    from spec_cascade_build.build import build
    from spec_cascade_build.errors import BuildError

    console = Console(stderr=True)
    if dry_run:
        checking.dry_run(pair, output, configs, console, Console(), force=force)
        return
    if check:
        checking.check(pair, configs, console, Console())
        return
    if configs is not None:
        raise BuildError("--configs goes with --check or --dry-run: a build needs the models themselves")
    start = time.monotonic()
    result = build(pair, output, console, force=force)
    seconds = time.monotonic() - start
    size = sum(entry.size for entry in result.manifest.files.values()) / 1e6
    state = "up to date" if result.up_to_date else "built"
    console.print(f"{result.directory}: {state} ({size:.0f} MB, {seconds:.1f} s)", highlight=False, soft_wrap=True)
