"""The `spec-cascade` command: collects the verbs that each import root registers."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

GROUP = "spec_cascade.commands"


def main() -> None:
    """Run the command line; errors raised on purpose end as one line on standard error and exit status 1."""
    try:
        import typer
    except ModuleNotFoundError:
        sys.exit("spec-cascade: the command line needs typer and rich: pip install 'spec-cascade[cli]'")
    from spec_cascade.errors import SpecCascadeError

    app = typer.Typer(name="spec-cascade", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(help="Speculative cascades: build engine pairs, serve them, ask them.")(lambda: None)
    for entry_point in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        entry_point.load()(app)
    try:
        app()
    except SpecCascadeError as error:
        sys.exit(f"spec-cascade: {error}")
