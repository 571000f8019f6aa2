"""The verb `drafter make`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer


def make_command(
    pair: Annotated[Path, typer.Argument(metavar="PAIR.yaml", help="A pair file with drafter.make.")],
    work: Annotated[
        Path | None,
        typer.Option(
            help="Where to keep text and checkpoints, for a second call to go on with.",
            show_default="engines/<name of the pair>.making",
        ),
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Where to compute: cpu, cuda, cuda:1.", show_default="cuda where there is one")
    ] = None,
) -> None:
    """Make the drafter of a pair file from its target: the target writes text, some of its layers learn from it."""
    from rich.console import Console

    from spec_cascade_build.drafter.make import make

    console = Console(stderr=True)
    start = time.monotonic()
    directory, made = make(pair, work, console, device=device)
    minutes = (time.monotonic() - start) / 60
    figures = made.figures
    console.print(
        f"{directory}: made in {minutes:.0f} min; best at step {figures['best_step']} of {figures['steps']}, "
        f"mean sum of min(p, q) {figures['overlap']:.3f}, same most likely token {figures['argmax']:.3f}",
        highlight=False,
        soft_wrap=True,
    )
