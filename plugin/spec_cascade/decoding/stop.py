"""Where a request's output ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spec_cascade.decoding.sampling import SamplingParams

    StopStringCut = Callable[[Sequence[int], int, tuple[str, ...]], int | None]


@dataclass(frozen=True, slots=True)
class StopConditions:
    """Cuts a block of new tokens at the first condition that ends the request.

    The cut is made before anything is counted or sent: tokens behind it were never emitted.

    Attributes:
        eos_token_ids: The model's own end tokens.
        max_seq_len: Prompt and output together.
        stop_string_cut: Given all output ids, the number of new ones among them and the stop strings, the number of new
            ids to keep when a stop string is completed (else None); None where the engine has no tokenizer.
    """

    eos_token_ids: frozenset[int]
    max_seq_len: int
    stop_string_cut: StopStringCut | None = None

    def room(self, prompt_length: int, num_emitted: int, sampling: SamplingParams) -> int:
        """Tokens that the request may still emit."""
        return min(sampling.max_tokens, self.max_seq_len - prompt_length) - num_emitted

    def cut(
        self, prompt_length: int, output_ids: Sequence[int], new_ids: list[int], sampling: SamplingParams
    ) -> tuple[list[int], FinishReason | None]:
        """The part of ``new_ids`` that is emitted after ``output_ids``, and why the request ends there, if it does."""
        room = self.room(prompt_length, len(output_ids), sampling)
        reason = FinishReason.LENGTH if len(new_ids) >= room else None
        new_ids = new_ids[:room]
        ends = set(sampling.stop_token_ids) | (set() if sampling.ignore_eos else self.eos_token_ids)
        for i, token in enumerate(new_ids):
            if token in ends:
                new_ids, reason = new_ids[: i + 1], FinishReason.STOP
                break
        if sampling.stop_strings and self.stop_string_cut is not None:
            kept = self.stop_string_cut([*output_ids, *new_ids], len(new_ids), sampling.stop_strings)
            if kept is not None:
                new_ids, reason = new_ids[:kept], FinishReason.STOP
        return new_ids, reason
