"""The verb `bench`; torch and transformers are imported when it runs."""

from __future__ import annotations

import json
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from spec_cascade.bench.settings import (
    DEFAULT_CONCURRENCY,
    DEFAULT_RULES,
    Settings,
    check_outputs,
    parsed_concurrency,
)
from spec_cascade.decoding.request import AUTO
from spec_cascade.errors import SpecCascadeError

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade.bench.session import Result

_WIDTH = 120
_SWEEP = ",".join(map(str, DEFAULT_CONCURRENCY))


def _draft_length(text: str) -> int:
    if text == "auto":
        return AUTO
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto") from None


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("bench")(bench)


def bench(
    engine_dir: Annotated[Path, typer.Argument(help="The engine directory that spec-cascade build wrote.")],
    rule: Annotated[
        list[str] | None,
        typer.Option("--rule", help="A deferral rule; may be given again.", show_default=", ".join(DEFAULT_RULES)),
    ] = None,
    draft_length: Annotated[
        int | None,
        typer.Option(
            parser=_draft_length, metavar="N|auto", help="Tokens to draft per round.", show_default="the engine's"
        ),
    ] = None,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Requests at a time, to sweep over.", show_default=f"{_SWEEP} where it takes them"),
    ] = None,
    tokens: Annotated[int, typer.Option(help="Output of every request, whatever its end token.")] = 64,
    prompts: Annotated[int, typer.Option(help="Requests of every run.")] = 8,
    repetitions: Annotated[int, typer.Option(help="Paired repetitions.")] = 5,
    warm_up: Annotated[int, typer.Option(help="Repetitions before them that do not count.")] = 1,
    temperature: Annotated[float, typer.Option(help="0 is greedy; above, every prompt has its seed.")] = 0.0,
    peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Measure transformers too, on one stream.")] = True,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write every sample here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the sweep: a .png or .svg file.")] = None,
) -> None:
    """Measure an engine: with drafts, without, and against transformers, in paired runs.

    Every repetition runs each subject once, on the same prompts, in an order
    that turns. The subjects: the engine's target alone, the engine with each
    rule, the engine opened without its drafter, and transformers: generate in
    bfloat16 and float32, and assisted generation with the same drafter.
    """
    settings = Settings(
        engine_dir=engine_dir,
        rules=tuple(dict.fromkeys(rule or ())),
        draft_length=draft_length,
        concurrency=() if concurrency is None else parsed_concurrency(concurrency),
        tokens=tokens,
        prompts=prompts,
        repetitions=repetitions,
        warm_up=warm_up,
        temperature=temperature,
        peers=peers,
    )
    if find_spec("torch") is None:
        raise SpecCascadeError("bench needs torch: pip install 'spec-cascade[embedded]'")
    check_outputs(json_file, plot)
    from rich.console import Console

    result = _measured(settings, Console(stderr=True))
    _show(result, settings, json_file, plot)


def _measured(settings: Settings, console: Console) -> Result:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from spec_cascade.bench.session import run

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("opening", total=None)
        begun = False

        def total(runs: int) -> None:
            nonlocal begun
            begun = True
            # The step is counted when the next begins.
            progress.update(bar, total=runs, completed=-1)

        def advance(what: str) -> None:
            progress.update(bar, description=what, advance=1 if begun else 0)

        return run(settings, total=total, advance=advance)


def _show(result: Result, settings: Settings, json_file: Path | None, plot: Path | None) -> None:
    from rich.console import Console

    from spec_cascade.bench.report import notes, record, table

    command = shlex.join(["spec-cascade", *sys.argv[1:]])
    console = Console(highlight=False)
    console.width = max(console.width, _WIDTH)
    console.print(table(result.lines, sampled=settings.temperature > 0))
    for line in notes(result, settings, command):
        console.print(line, markup=False, soft_wrap=True)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(record(result, settings, command), indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        from spec_cascade.bench.plot import draw

        facts = result.machine
        title = f"{result.name}, {result.dtype}; {facts['gpu'] or facts['processor']}, {facts['cores']} cores"
        draw(result.lines, title, plot)
