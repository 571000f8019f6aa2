"""The command line's verbs of the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer


def register(app: typer.Typer) -> None:
    """Add the engines' verbs to the command line."""
    from spec_cascade.engines.tensorrt_llm import doctor_command

    doctor_command.register(app)
