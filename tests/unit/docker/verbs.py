"""The real command line, asked whether it would take a command; nothing is run."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import typer
from typer.main import get_command

REGISTERS = ("spec_cascade.commands", "spec_cascade_build.commands", "spec_cascade_client.commands")


def parsed(words: list[str]) -> dict[str, Any]:
    """The arguments of a ``spec-cascade`` command, as its verb would get them."""
    assert words[0] == "spec-cascade", words
    app = typer.Typer()
    app.callback()(lambda: None)
    for module in REGISTERS:
        import_module(module).register(app)
    command: Any = get_command(app)
    rest, name = list(words[1:]), words[0]
    while hasattr(command, "commands"):
        assert rest, f"{' '.join(words)}: no verb"
        assert rest[0] in command.commands, f"{' '.join(words)}: there is no verb {rest[0]!r}"
        name = rest.pop(0)
        command = command.commands[name]
    try:
        context = command.make_context(name, rest)
    except Exception as error:  # of whichever click the version of typer brings
        raise AssertionError(f"{' '.join(words)}: {getattr(error, 'message', error)}".lower()) from error
    return dict(context.params)


def words_of_module(words: list[str]) -> tuple[str, list[str]]:
    """The module and the arguments of a ``python3 -m`` command; the module is there."""
    assert words[:2] == ["python3", "-m"], words
    assert find_spec(words[2]) is not None, words[2]
    return words[2], words[3:]
