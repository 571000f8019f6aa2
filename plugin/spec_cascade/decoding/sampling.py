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
        seed: Key of the request's counter-based draws; the same seed gives the same output.
        max_tokens: Most tokens to emit.
        stop_token_ids: Emission ends after any of these, in addition to the model's own end token.
        stop_strings: Emission ends when the text contains any of these; the text is cut before it.
        ignore_eos: Go on past the model's end token.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    max_tokens: int = 128
    stop_token_ids: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        warm = math.isfinite(self.temperature) and self.temperature >= COLDEST
        allowed = f"0 (greedy) or a finite number >= {COLDEST}"
        _require(warm or self.temperature == 0, "temperature", self.temperature, allowed)
        _require(self.top_k >= 0, "top_k", self.top_k, "an integer >= 0 (0 keeps all tokens)")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "a number in (0, 1]")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "a number in [0, 1)")
        _require(0 <= self.seed < 2**64, "seed", self.seed, "an integer in [0, 2**64)")
        _require(self.max_tokens >= 1, "max_tokens", self.max_tokens, "an integer >= 1")
        _require(all(self.stop_strings), "stop_strings", self.stop_strings, "strings of at least one character")
        _require(all(t >= 0 for t in self.stop_token_ids), "stop_token_ids", self.stop_token_ids, "token ids >= 0")


def _require(holds: bool, field: str, value: object, allowed: str) -> None:
    if not holds:
        raise ConfigError(field, value, allowed)
