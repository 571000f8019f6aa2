"""Where the target's own text begins: prompts from a file, or the place where its chat template has the user speak."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.bench.prompts import prompt_ids
from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spec_cascade.decoding.tokenizer import Tokenizer

# Stands for the user's words where the template is taken apart; templates may trim or measure what they are given.
_WORDS = "words-of-the-user"


class Conversation:
    """Prompts, by the number of the answer.

    A tuned model that is given its chat template up to the user's words writes words that a user would say to it (Xu et
    al., "Magpie", 2024). A model without a template begins a text of its own.

    Args:
        openings: Token ids that answers begin from, used in turn.
        closing: Token ids between the user's words and the answer, where the target writes those words itself; None
            where the openings are whole prompts.
    """

    def __init__(self, openings: Sequence[Sequence[int]], closing: Sequence[int] | None = None) -> None:
        self._openings = openings
        self._asks = closing is not None
        self.closing = tuple(closing or ())

    @property
    def longest_opening(self) -> int:
        """In tokens."""
        return max(map(len, self._openings))

    def begin(self, number: int) -> tuple[list[int], bool]:
        """What answer ``number`` begins from, and whether the user's words are still to be written."""
        return list(self._openings[number % len(self._openings)]), self._asks

    @classmethod
    def of(cls, tokenizer: Tokenizer, prompts: Sequence[str] | None) -> Conversation:
        """Of a tokenizer and prompts; without prompts the target writes them.

        Raises:
            BuildError: It cannot be told what the target would begin from.
        """
        if prompts is not None:
            return cls([prompt_ids(tokenizer, prompt) for prompt in prompts])
        try:
            opening, found, closing = tokenizer.render_chat([{"role": "user", "content": _WORDS}]).partition(_WORDS)
        except ConfigError:
            begin = tokenizer.encode_prompt("")
            if not begin:
                raise BuildError(
                    "the target has neither a chat template nor a begin token to write text from: name a file with "
                    "prompts in drafter.make.text.prompts"
                ) from None
            return cls([begin])
        encoded = [tokenizer.encode(part, add_special_tokens=False) for part in (opening, closing)]
        if not (found and all(encoded)):
            raise BuildError(
                "the target's chat template does not show where the user's words begin and end: name a file with "
                "prompts in drafter.make.text.prompts"
            )
        return cls([encoded[0]], encoded[1])


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; empty lines and those that begin with ``#`` are left out.

    Raises:
        BuildError: The file cannot be read, or has no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(f"the prompts {path} cannot be read: {error}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not prompts:
        raise BuildError(f"{path} has no prompts: one a line")
    return prompts
