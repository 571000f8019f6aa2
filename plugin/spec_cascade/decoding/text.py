"""From output tokens to text that arrives in pieces.

One law: the pieces concatenate to exactly what decoding the whole output gives, in whatever blocks the tokens arrive.
It holds because a piece is the difference of two *stable texts*, and the stable text of more tokens always begins with
that of fewer. The stable text is the decoded text without what may still change:

* the replacement character at its end, which may be the first bytes of a character;
* with byte fallback (sentencepiece), the run of byte tokens at its end: one byte that does not fit turns the whole
  run into replacement characters, so a run is sent when it has ended;
* a suffix that a stop string begins with.

A stop string counts where it is completed by a token behind the first ``min_tokens``; it may begin among them.

Nothing is kept between calls, so whoever holds the tokens can ask, in whatever process.

The cost of a piece does not grow with the output: only a window at its end is decoded. A window starts at a token whose
own text begins with a whole character and that is no byte token, so that nothing before it reaches into it; decoders
may strip the spaces of its first token, as they do at the beginning of a text. Its text is therefore a suffix of the
whole text, and it is taken long enough to show all that is held back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.decoding.tokenizer import Tokenizer

_REPLACEMENT = "\ufffd"
_FIRST_STEP = 16


@dataclass(frozen=True, slots=True)
class OutputText:
    """The text of one request's output.

    Attributes:
        tokenizer: The model's.
        stop_strings: The text ends before the first of these.
        min_tokens: Tokens whose text may have stop strings in it.
    """

    tokenizer: Tokenizer
    stop_strings: tuple[str, ...] = ()
    min_tokens: int = 0

    def stable_text(self, output_ids: Sequence[int]) -> str:
        """The text so far that no further token can change."""
        return self._stable(output_ids, 0, len(output_ids))

    def final_text(self, output_ids: Sequence[int]) -> str:
        """The whole text of a finished output."""
        return self._final(output_ids, 0)

    def piece(self, output_ids: Sequence[int], num_new: int, *, final: bool) -> str:
        """The text that the last ``num_new`` of ``output_ids`` add; the last piece flushes what was held back."""
        before = len(output_ids) - num_new
        start = self._window(output_ids, before)
        sent = self._stable(output_ids, start, before) if before else ""
        text = self._final(output_ids, start) if final else self._stable(output_ids, start, len(output_ids))
        return text[len(sent) :]

    def token_pieces(self, output_ids: Sequence[int], num_new: int, *, final: bool) -> list[str]:
        """The same text by the token that released it: one string for each of the last ``num_new``."""
        end = len(output_ids)
        return [self.piece(output_ids[: i + 1], 1, final=final and i + 1 == end) for i in range(end - num_new, end)]

    def stop_cut(self, output_ids: Sequence[int], num_new: int) -> int | None:
        """How many of the last ``num_new`` tokens to keep, if one of them completes a stop string: up to that one."""
        before = len(output_ids) - num_new
        start = self._window(output_ids, before)
        if not self._stops(output_ids, start, len(output_ids)):
            return None
        ends = range(before + 1, len(output_ids) + 1)
        return next(i - before for i in ends if self._stops(output_ids, start, i))

    def _stable(self, ids: Sequence[int], start: int, end: int) -> str:
        text = self._settled(ids, start, end)
        stop = self._first_stop(text, ids, start, end)
        return text[: len(text) - self._held_back(text)] if stop is None else text[:stop]

    def _final(self, ids: Sequence[int], start: int) -> str:
        text = self.tokenizer.decode(ids[start:])
        return text[: self._first_stop(text, ids, start, len(ids))]

    def _settled(self, ids: Sequence[int], start: int, end: int) -> str:
        """The decoded text of ``ids[start:end]`` without characters that may be unfinished."""
        if self.tokenizer.has_byte_fallback:
            end = self._before_byte_run(ids, end)
        return self.tokenizer.decode(ids[start:end]).removesuffix(_REPLACEMENT)

    def _window(self, ids: Sequence[int], end: int) -> int:
        """A start from which all that is held back of ``ids[:end]`` can be seen; 0 where only the whole will do."""
        if not self.tokenizer.decodes_in_windows:
            return 0
        reach = max(map(len, self.stop_strings), default=1)
        step = _FIRST_STEP
        while (start := self._whole_character_at(ids, end - step)) > 0:
            if len(self._settled(ids, start, end)) >= reach:
                return start
            step *= 2
        return 0

    def _whole_character_at(self, ids: Sequence[int], place: int) -> int:
        """The last token not after ``place`` at which a window may start."""
        for i in range(place, 0, -1):
            text = self.tokenizer.decode(ids[i : i + 1])
            if text and not text.startswith(_REPLACEMENT) and not self.tokenizer.is_byte(ids[i]):
                return i
        return 0

    def _before_byte_run(self, ids: Sequence[int], end: int) -> int:
        # Invisible tokens are left out before decoding: they do not end a run.
        while end and (self.tokenizer.is_byte(ids[end - 1]) or self.tokenizer.is_invisible(ids[end - 1])):
            end -= 1
        return end

    def _stops(self, ids: Sequence[int], start: int, end: int) -> bool:
        return self._first_stop(self._settled(ids, start, end), ids, start, end) is not None

    def _first_stop(self, text: str, ids: Sequence[int], start: int, end: int) -> int | None:
        """Where the first stop string begins in ``text``, which is that of ``ids[start:end]``."""
        if not self.stop_strings or end <= self.min_tokens:
            return None
        exempt = len(self._settled(ids, start, self.min_tokens)) if start < self.min_tokens else 0
        places = (text.find(stop, max(0, exempt - len(stop) + 1)) for stop in self.stop_strings)
        return min((place for place in places if place >= 0), default=None)

    def _held_back(self, text: str) -> int:
        """Length of the longest suffix that a stop string begins with."""
        longest = 0
        for stop in self.stop_strings:
            sizes = range(min(len(stop) - 1, len(text)), longest, -1)
            longest = next((size for size in sizes if text.endswith(stop[:size])), longest)
        return longest


def stop_cut(
    tokenizer: Tokenizer, output_ids: Sequence[int], num_new: int, stop_strings: tuple[str, ...], min_tokens: int = 0
) -> int | None:
    """How many of the last ``num_new`` of ``output_ids`` to keep when one of them completes a stop string.

    The token that completes it is kept, so that the text can be cut exactly before the stop string. None where no stop
    string is complete, or only such as the first ``min_tokens`` tokens complete.
    """
    return OutputText(tokenizer, stop_strings, min_tokens).stop_cut(output_ids, num_new) if stop_strings else None
