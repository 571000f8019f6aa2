"""Where a request's output ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spec_cascade.decoding.sampling import SamplingParams

    StopStringCut = Callable[[Sequence[int], int, tuple[str, ...], int], int | None]


@dataclass(frozen=True, slots=True)
class StopConditions:
    """Cuts a block of new tokens at the first condition that ends the request.

    The cut is made before anything is counted or sent: tokens behind it were never emitted.

    Attributes:
        eos_token_ids: The model's own end tokens.
        max_seq_len: Prompt and output together.
        stop_string_cut: Given all output ids, the number of new ones among them, the stop strings and ``min_tokens``,
            the number of new ids to keep when a stop string is completed (else None); None where the engine has no
            tokenizer.
    """

    eos_token_ids: frozenset[int]
    max_seq_len: int
    stop_string_cut: StopStringCut | None = None

    def room(self, prompt_length: int, num_emitted: int, sampling: SamplingParams) -> int:
        """Tokens that the request may still emit."""
        return min(sampling.max_tokens, self.max_seq_len - prompt_length) - num_emitted

    def end_ids(self, sampling: SamplingParams) -> frozenset[int]:
        """The tokens that end this request's output."""
        own = frozenset[int]() if sampling.ignore_eos else self.eos_token_ids
        return own.union(sampling.stop_token_ids)

    def cut(
        self, prompt_length: int, output_ids: Sequence[int], new_ids: list[int], sampling: SamplingParams
    ) -> tuple[list[int], FinishReason | None]:
        """The part of ``new_ids`` that is emitted after ``output_ids``, and why the request ends there, if it does.

        What stands among the first ``min_tokens`` tokens ends nothing; the token behind them is the first that may.
        """
        room = self.room(prompt_length, len(output_ids), sampling)
        reason = FinishReason.LENGTH if len(new_ids) >= room else None
        new_ids = new_ids[:room]
        ends = self.end_ids(sampling)
        for i in range(max(0, sampling.min_tokens - len(output_ids)), len(new_ids)):
            if new_ids[i] in ends:
                new_ids, reason = new_ids[: i + 1], FinishReason.STOP
                break
        if sampling.stop_strings and self.stop_string_cut is not None:
            ids = [*output_ids, *new_ids]
            kept = self.stop_string_cut(ids, len(new_ids), sampling.stop_strings, sampling.min_tokens)
            if kept is not None:
                new_ids, reason = new_ids[:kept], FinishReason.STOP
        return new_ids, reason
