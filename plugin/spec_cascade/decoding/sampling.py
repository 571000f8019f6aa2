"""Sampling parameters of one request."""

from __future__ import annotations

import math
from dataclasses import dataclass

from spec_cascade.errors import ConfigError

COLDEST = 1e-5
"""Lowest temperature that is not 0: logits divided by less would leave the range of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How one request turns the models' logits into sampling rows, and when it ends.

    Attributes:
        temperature: 0 is greedy (one-hot rows at the argmax); otherwise logits are divided by it.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        min_p: Drop tokens less likely than this times the most likely one; 0 keeps all.
        seed: Key of the request's counter-based draws; the same seed gives the same output, unless measurements pick
            the draft lengths (see `GenerationRequest.reproducible`).
        repetition_penalty: Divides the positive logits of all tokens of prompt and output and multiplies the negative
            ones; 1 is none. See `spec_cascade.decoding.shaping` for these three.
        presence_penalty: Subtracted from the logits of all tokens of the output; 0 is none.
        frequency_penalty: Subtracted as often as the token stands in the output; 0 is none.
        bad_words: The output has none of these, as the tokenizer writes them at the start of a text and after a space.
        max_tokens: Most tokens to emit.
        min_tokens: Tokens to emit before any end or stop token may come and before stop strings are looked for.
        stop_token_ids: Emission ends after any of these, in addition to the model's own end token.
        stop_strings: Emission ends when the text contains any of these; the text is cut before it.
        ignore_eos: Go on past the model's end token.
        log_probs: Report the log of the target's probability of every token; see `RoundOutput.log_probs`.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bad_words: tuple[str, ...] = ()
    max_tokens: int = 128
    min_tokens: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False
    log_probs: bool = False

    def __post_init__(self) -> None:
        warm = math.isfinite(self.temperature) and self.temperature >= COLDEST
        allowed = f"0 (greedy) or a finite number >= {COLDEST}"
        _require(warm or self.temperature == 0, "temperature", self.temperature, allowed)
        _require(self.top_k >= 0, "top_k", self.top_k, "an integer >= 0 (0 keeps all tokens)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1]")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "a number in [0, 1)")
        _require(0 <= self.seed < 2**64, "seed", self.seed, "an integer in [0, 2**64)")
        repetition = self.repetition_penalty
        _require(0 < repetition < math.inf, "repetition_penalty", repetition, "a finite number > 0 (1 is no penalty)")
        for name in ("presence_penalty", "frequency_penalty"):
            penalty = getattr(self, name)
            _require(-2 <= penalty <= 2, name, penalty, "a number in [-2, 2] (0 is no penalty)")
        _require(all(self.bad_words), "bad_words", self.bad_words, "strings of at least one character")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "an integer >= 1")
        most = f"an integer in [0, {self.max_tokens}], at most max_tokens"
        _require(0 <= self.min_tokens <= self.max_tokens, "min_tokens", self.min_tokens, most)
        _require(all(self.stop_strings), "stop_strings", self.stop_strings, "strings of at least one character")
        _require(all(t >= 0 for t in self.stop_token_ids), "stop_token_ids", self.stop_token_ids, "token ids >= 0")


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(field, value, allowed)
