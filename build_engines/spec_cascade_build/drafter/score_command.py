"""The verb `drafter score`; torch and transformers are imported when it runs."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spec_cascade.bench.settings import check_outputs
from spec_cascade.errors import ConfigError
from spec_cascade_build.drafter.score_settings import ScoreSettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from spec_cascade.engines.manifest import Manifest
    from spec_cascade_build.drafter.score import Score

_WIDTH = 120


def score_command(
    pair: Annotated[
        Path,
        typer.Argument(
            metavar="PAIR.yaml|ENGINE_DIR", help="A pair file, which is built first, or what a build wrote."
        ),
    ],
    engine: Annotated[
        Path | None,
        typer.Option(help="Where to build the pair file.", show_default="engines/<name of the pair>"),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompts for the target to answer, one a line; lines that begin with # are left out.",
            show_default="64 built-in ones",
        ),
    ] = None,
    text: Annotated[Path | None, typer.Option(help="A text to score as it stands, instead of answers.")] = None,
    tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 64,
    window: Annotated[int, typer.Option(help="Tokens of each piece that --text is cut into.")] = 256,
    temperature: Annotated[float, typer.Option(help="Of the answers and of both models' rows.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Of the answers.")] = 0,
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="A rule beside strict; may be given again.", show_default="every rule"),
    ] = None,
    repetitions: Annotated[int, typer.Option(help="Of each timing.")] = 15,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the speed-ups over K: a .png or .svg file.")] = None,
) -> None:
    """Say what a drafter is worth: how often it agrees, what it costs, and whether speculation pays at all.

    Both models read the same text, by default the target's own answers, and
    every rule says how often it would keep a drafted token. The parts of a
    round are timed on this machine. Together they predict the tokens for each
    call of the target and the speed-up of one request, for K = 1 to 8.
    """
    settings = ScoreSettings(
        engine_dir=pair,
        prompts=prompts,
        text=text,
        tokens=tokens,
        window=window,
        temperature=temperature,
        seed=seed,
        rules=tuple(rule or ()),
        repetitions=repetitions,
    )
    check_outputs(json_file, plot)
    from rich.console import Console

    console = Console(stderr=True)
    directory, manifest = _engine(pair, engine, console)
    settings = replace(settings, engine_dir=directory)
    _show(_scored(settings, manifest, console), settings, json_file, plot)


def _engine(pair: Path, engine: Path | None, console: Console) -> tuple[Path, Manifest]:
    """The engine directory and its manifest; a pair that cannot be scored is refused before it is built."""
    from spec_cascade.engines.manifest import Manifest
    from spec_cascade_build.build import build
    from spec_cascade_build.drafter.score_pair import check_scorable
    from spec_cascade_build.pair import load_pair

    if not pair.is_dir():
        written = load_pair(pair)
        check_scorable(written.drafter_kind, written.engine)
        result = build(pair, engine, console)
        return result.directory, result.manifest
    if engine is not None:
        raise ConfigError("--engine", str(engine), f"left out: {pair} is no pair file")
    manifest = Manifest.read(pair)
    check_scorable(manifest.drafter.kind, manifest.engine)
    manifest.check(pair)
    return pair, manifest


def _scored(settings: ScoreSettings, manifest: Manifest, console: Console) -> Score:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from spec_cascade_build.drafter.score import score

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:

        def tell(what: str, steps: int) -> Callable[[int], None]:
            bar = progress.add_task(what, total=steps)
            return lambda done: progress.update(bar, advance=done)

        return score(settings, manifest, tell=tell)


def _show(score: Score, settings: ScoreSettings, json_file: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    from spec_cascade_build.drafter.score_report import lengths_table, notes, record, rules_table, verdicts

    command = shlex.join(["spec-cascade", *sys.argv[1:]])
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    for table in (rules_table(score), lengths_table(score)):
        console.print(table)
    for line in [*verdicts(score), "", *notes(score, settings, command)]:
        console.print(line, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record(score, settings, command), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from spec_cascade_build.drafter.score_plot import draw

        draw(score, plot)
