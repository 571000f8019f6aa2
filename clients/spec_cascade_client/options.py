"""What a caller may ask for besides the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to generate; None leaves the choice to the server.

    Attributes:
        rule: Deferral rule, e.g. ``"strict"`` or ``"token_v3:alpha=0.8"``.
        draft_length: Most tokens to draft per round; 0 is plain decoding by the target.
        max_tokens: Most tokens to emit.
        temperature: 0 is greedy.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the smallest set of tokens whose probability reaches this; 1 keeps all.
        min_p: Drop tokens less likely than this times the most likely one; 0 keeps all.
        seed: The same seed gives the same output.
        stop: Emission ends when the text contains any of these; the text is cut before it.
        ignore_eos: Go on past the model's end token.
        token_sources: Ask who wrote each token.
    """

    rule: str | None = None
    draft_length: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    token_sources: bool = True
