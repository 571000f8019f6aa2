"""The command line's verbs of the decoding plugin: ``rules`` here, the others where their work is done.

What takes torch is imported when a verb runs, so that the other verbs start without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from inspect import cleandoc
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spec_cascade.errors import SpecCascadeError

_rules = typer.Typer(help="List the deferral rules, or explain one.", invoke_without_command=True)


def register(app: typer.Typer) -> None:
    """Add the plugin's verbs to the command line."""
    from spec_cascade.bench import commands as bench
    from spec_cascade.engines import commands as engines
    from spec_cascade.serving import commands as serving

    app.add_typer(_rules, name="rules")
    serving.register(app)
    bench.register(app)
    engines.register(app)


@_rules.callback()
def list_rules(
    context: typer.Context,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the table of docs/rules.md.")] = False,
) -> None:
    """List the deferral rules with formula and range, or explain one of them: `rules show NAME`."""
    if context.invoked_subcommand is not None:
        return
    _need_torch()
    from spec_cascade.rules.table import HEADINGS, lines, markdown

    console = Console()
    if as_markdown:
        console.out(markdown(), end="", highlight=False)
        return
    # The other columns do not fit a terminal; `rules show NAME` has them.
    shown = [HEADINGS.index(name) for name in ("rule", "formula", "parameters")]
    table = Table(box=SIMPLE_HEAD)
    for column in shown:
        table.add_column(HEADINGS[column], no_wrap=column == shown[0])
    for line in lines():
        table.add_row(*(escape(line[column]) for column in shown))
    console.print(table)
    console.print("Strict value, source and a worked example: spec-cascade rules show NAME", style="dim")


@_rules.command()
def show(name: Annotated[str, typer.Argument(help="A rule, with parameters or without: token_v3:alpha=0.5")]) -> None:
    """Explain one rule: formula, range, source, and a small example worked out on the spot."""
    _need_torch()
    from spec_cascade.rules.parse import parse_rule
    from spec_cascade.rules.registry import rule_class
    from spec_cascade.rules.table import HEADINGS, lines
    from spec_cascade.rules.worked_example import worked_example

    written = "=" in name or "(" in name
    kind = type(parse_rule(name)) if written else rule_class(name)
    console = Console(highlight=False)
    for paragraph in cleandoc(kind.__doc__ or "").replace("`", "").split("\n\n"):
        console.print(paragraph.replace("\n", " "), markup=False)
        console.print()
    for heading, text in zip(HEADINGS, *lines([kind]), strict=True):
        if text:
            console.print(f"{heading + ':':<17}{text}", markup=False)
    if written or kind.about is not None:
        spec = name if written or kind.about is None else kind.about.example
        console.print()
        console.print(worked_example(parse_rule(spec)))


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise SpecCascadeError("the rules need torch: pip install 'spec-cascade[embedded]'")
