"""What a caller may ask for besides the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

AUTO = -1
"""A draft length: the server picks it, round by round."""


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to generate; None leaves the choice to the server.

    Attributes:
        rule: Deferral rule, e.g. ``"strict"`` or ``"token_v3:alpha=0.8"``.
        draft_length: Most tokens to draft per round; 0 is plain decoding by the target; `AUTO` (-1): the server picks.
        max_tokens: Most tokens to emit.
        min_tokens: Tokens to emit before an end token or a stop string may end the output.
        temperature: 0 is greedy.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        min_p: Drop tokens less likely than this times the most likely one; 0 keeps all.
        repetition_penalty: Divides the logits of tokens in prompt and output, multiplies negative ones; 1 is none.
        presence_penalty: Subtracted from the logits of tokens in the output, in [-2, 2].
        frequency_penalty: Subtracted as often as the token stands in the output, in [-2, 2].
        seed: The same seed gives the same output: the server then lets no measurement change the draft length.
        stop: Emission ends when the text contains any of these; the text is cut before it.
        bad_words: The output has none of these, as the model's tokenizer writes them first in a text or after a space.
        ignore_eos: Go on past the model's end token.
        token_sources: Ask who wrote each token.
        log_probs: Ask for the log of the target's probability of each token.
        timeout_ms: Milliseconds after which the server ends the request with what it has.
        priority: In [0, 1]; where requests wait, the highest goes first. A server's default is 0.5.
    """

    rule: str | None = None
    draft_length: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()
    ignore_eos: bool = False
    token_sources: bool = True
    log_probs: bool = False
    timeout_ms: int | None = None
    priority: float | None = None
