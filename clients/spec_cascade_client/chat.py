"""A conversation on the terminal. Needs rich."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict, replace
from io import TextIOWrapper
from typing import TYPE_CHECKING

from spec_cascade_client.console import TokenPrinter, summary
from spec_cascade_client.errors import ClientError
from spec_cascade_client.history import History

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade_client.client import Client
    from spec_cascade_client.options import Options
    from spec_cascade_client.results import Result

PROMPT = "> "
HELP = """\
/rule RULE  take another deferral rule from here on, e.g. /rule token_v3:alpha=0.8; alone: say which
/stats      what the server counted for the last answer
/reset      forget the conversation
/help       this
/quit       end; so does Ctrl-D. Ctrl-C stops an answer"""


class Chat:
    """Asks what its user types and prints the answers as they stream.

    Args:
        client: Whom to ask.
        options: How to answer; the user may change the rule.
        system: Instructions for the whole conversation.
        out: Where answers go.
        notes: Where everything else goes.
    """

    def __init__(self, client: Client, options: Options, system: str | None, out: Console, notes: Console) -> None:
        self._client = client
        self._options = options
        self._history = History(system)
        self._out = out
        self._notes = notes
        self._last: Result | None = None
        self._commands = {
            "/rule": self._take_rule,
            "/stats": self._show_statistics,
            "/reset": self._reset,
            "/help": self._help,
        }

    def run(self) -> None:
        """Read lines until the user ends it."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its line editing
        if isinstance(sys.stdin, TextIOWrapper):  # a line that is no text is refused, and not all that was read with it
            sys.stdin.reconfigure(errors="surrogateescape")
        while (line := self._read()) is not None and line != "/quit":
            name, _, argument = line.partition(" ")
            if name in self._commands:
                self._commands[name](argument.strip())
            elif name.startswith("/"):
                self._note(f"{name} is none of the commands:\n{HELP}")
            elif line:
                self._ask(line)

    def _read(self) -> str | None:
        """The next line; None when there are no more."""
        try:
            return input(PROMPT if sys.stdin.isatty() else "").strip()
        except EOFError:
            if sys.stdin.isatty():  # what comes after begins on a line of its own
                self._note("")
            return None
        except KeyboardInterrupt:  # drops the line, as in a shell
            self._note("")
            return ""

    def _ask(self, question: str) -> None:
        self._history.ask(question)
        num_turns = self._history.num_turns
        text = ""
        try:
            with TokenPrinter(self._out) as printer, self._client.stream(self._history, self._options) as stream:
                for chunk in stream:
                    text += chunk.text
                    printer.write(chunk.pieces)
            self._last = stream.result()
        except KeyboardInterrupt:
            self._note("stopped")
        except ClientError as error:
            self._note(f"spec-cascade: {error}")
            self._history.retract()
            return
        if text:
            self._history.answer(text)
        else:
            self._history.retract()
        if forgotten := num_turns - self._history.num_turns - (not text):
            self._note(f"forgot the oldest {forgotten} of {num_turns} turns: the model's window is full")

    def _take_rule(self, rule: str) -> None:
        if rule:
            self._options = replace(self._options, rule=rule)
        self._note(f"rule {self._options.rule or 'of the server'}")

    def _show_statistics(self, _: str) -> None:
        if self._last is None:
            self._note("nothing has been answered")
            return
        self._note(summary(self._last))
        for name, value in asdict(self._last.statistics).items():
            self._note(f"  {name:<26}{value}")

    def _reset(self, _: str) -> None:
        self._history.clear()
        self._note("forgot the conversation")

    def _help(self, _: str) -> None:
        self._note(HELP)

    def _note(self, text: str) -> None:
        self._notes.print(text, style="dim", soft_wrap=True, markup=False)
