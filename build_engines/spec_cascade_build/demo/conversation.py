"""Answers on the screen as they stream, each token in the colour of the model that wrote it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client import Client, TokenSource
from spec_cascade_client.console import TokenPrinter, is_colored, legend, rounds, summary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from spec_cascade_client import Message, Options


def show_answer(url: str, messages: Sequence[Message], options: Options, console: Console) -> None:
    """Ask the server at ``url`` and print the answer while it arrives, then what it took."""
    with Client(url) as client, TokenPrinter(console) as printer, client.stream(messages, options) as stream:
        chunks = []
        for chunk in stream:
            chunks.append(chunk)
            printer.write(chunk.pieces)
    if not is_colored(console):
        console.print(f"written by: {rounds(chunks)}", soft_wrap=True)
    console.print(summary(stream.result()), style="dim")


def show_legend(console: Console) -> None:
    """Say what the colours mean, or the letters where there are none."""
    console.print(legend(TokenSource, colored=is_colored(console)))
