"""Generated text on a terminal, each token in the colour of the model that wrote it. Needs rich."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from spec_cascade_client.results import TokenSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_cascade_client.results import Chunk, Piece, Result

STYLES = {
    TokenSource.DRAFTER: "green",
    TokenSource.RESIDUAL: "bold yellow",
    TokenSource.BONUS: "cyan",
    TokenSource.TARGET: "",
}
MEANINGS = {
    TokenSource.DRAFTER: "drafter",
    TokenSource.RESIDUAL: "target for a rejected draft",
    TokenSource.BONUS: "target after a whole block",
    TokenSource.TARGET: "target without a draft",
}
LETTERS = {
    TokenSource.DRAFTER: "d",
    TokenSource.RESIDUAL: "R",
    TokenSource.BONUS: "B",
    TokenSource.TARGET: "T",
}
# All but newline and tab: a model's text must not move the cursor or set the window's title.
_CONTROL = {code: "\N{REPLACEMENT CHARACTER}" for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"}


def make_console(*, color: bool | None = None, stderr: bool = False) -> Console:
    """A console; ``color`` None colours a terminal unless ``NO_COLOR`` is set, as rich does."""
    if color is None:
        return Console(stderr=stderr, highlight=False)
    return Console(
        stderr=stderr,
        highlight=False,
        no_color=not color,
        force_terminal=color or None,
        color_system="standard" if color else None,
    )


def is_colored(console: Console) -> bool:
    """Whether tokens show in colours there."""
    return console.is_terminal and not console.no_color


class TokenPrinter:
    """Prints pieces of text as they arrive; as a context, it finishes the line at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._styled = is_colored(console)
        self._seen: set[TokenSource] = set()
        self._style = ""
        self._line_open = False

    def __enter__(self) -> TokenPrinter:
        return self

    def __exit__(self, *_: object) -> None:
        """Finish the line."""
        if self._line_open:
            self._console.file.write("\n")
            self._console.file.flush()

    def write(self, pieces: Iterable[Piece]) -> None:
        """Print without a line break after; text that no token owns keeps the colour before it."""
        for piece in pieces:
            if piece.source is not None:
                self._seen.add(piece.source)
                self._style = STYLES[piece.source]
            text = piece.text.translate(_CONTROL) if self._console.is_terminal else piece.text
            if self._styled:
                self._console.print(Text(text, self._style), end="", soft_wrap=True)
            else:
                # Not through rich, which drops some characters.
                self._console.file.write(text)
            self._line_open = not text.endswith("\n")
        self._console.file.flush()

    def legend(self) -> Text:
        """What the colours printed so far mean."""
        return legend(sorted(self._seen), colored=self._styled)


def legend(sources: Iterable[TokenSource], *, colored: bool) -> Text:
    """One line: what each source's colour, or its letter in `rounds`, means."""
    if colored:
        return Text("   ").join(Text(MEANINGS[source], STYLES[source] or "default") for source in sources)
    meanings = ", ".join(f"{LETTERS[source]} {MEANINGS[source]}" for source in sources)
    return Text(f"one letter a token, one word a round: {meanings}")


def rounds(chunks: Iterable[Chunk]) -> str:
    """Who wrote each token, where colours cannot tell: one letter a token, one word a round."""
    words = ("".join(LETTERS[source] for source in chunk.token_sources) for chunk in chunks)
    return " ".join(word for word in words if word)


def summary(result: Result) -> str:
    """One line on what ran and what it brought."""
    statistics = result.statistics
    drafted = statistics.num_draft_tokens > 0
    words = [
        f"{len(result.token_ids)} tokens",
        f"{statistics.tokens_per_target_call:.2f} per target call",
        f"{statistics.draft_acceptance_rate:.0%} of drafts kept" if drafted else "nothing drafted",
        f"rule {statistics.rule}",
        f"finished by {result.finish_reason}",
    ]
    return ", ".join(words)
