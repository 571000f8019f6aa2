"""What the client hands back: chunks while a request streams, one result when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


class TokenSource(IntEnum):
    """Who wrote a token; the values are the wire's."""

    DRAFTER = 0
    """Drafted, and kept by the verifier."""
    RESIDUAL = 1
    """The target's, in place of a rejected draft."""
    BONUS = 2
    """The target's extra token after a block that was accepted whole."""
    TARGET = 3
    """The target's, in a round without a draft."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of text and who wrote it; None where the server did not say or no new token owns the text."""

    text: str
    source: TokenSource | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """What one response of a stream adds: the tokens of one round.

    The text of a chunk need not decode its tokens: bytes of an unfinished character, and text that may yet
    become a stop string, are held back and come with a later token. `token_texts` says which token released
    which text.

    Attributes:
        index: Number of the chunk within its request, from 0.
        text: New text.
        token_ids: New tokens.
        token_sources: Who wrote each; empty unless asked for.
        token_texts: The text that each released, together `text`; empty unless sources were asked for.
        log_probs: Of each new token, whoever wrote it, the log of the target's probability: at temperature 1, without
            truncation, after penalties; empty unless asked for.
        finish_reason: ``"stop"``, ``"length"``, ``"timeout"`` or ``"cancelled"`` on the last chunk, else None.
    """

    index: int
    text: str
    token_ids: tuple[int, ...]
    token_sources: tuple[TokenSource, ...] = ()
    token_texts: tuple[str, ...] = ()
    log_probs: tuple[float, ...] = ()
    finish_reason: str | None = None

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The chunk's text in runs, each with its writer."""
        if len(self.token_texts) != len(self.token_sources) or "".join(self.token_texts) != self.text:
            return (Piece(self.text, None),) if self.text else ()
        return tuple(
            Piece(text, source) for text, source in zip(self.token_texts, self.token_sources, strict=True) if text
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What the server counted for one request.

    Attributes:
        rule: The rule that ran, with its parameters.
        rule_params: The parameters by name.
        lossy: Whether that rule may change the target's distribution.
        verifier: Which verifier judged the last drafts: ``fused``, or ``reference`` and why; empty before the first.
        num_spec_tokens: Most tokens drafted per round, as asked for; -1 is automatic.
        num_prompt_tokens: Length of the prompt.
        num_output_tokens: Tokens emitted.
        num_target_calls: Target forwards that emitted at least one token.
        tokens_per_target_call: Emitted tokens per target forward.
        mean_acceptance_length: 1 + accepted tokens per speculative step.
        draft_acceptance_rate: Accepted over drafted tokens.
        acceptance_histogram: Entry j counts the steps that kept exactly j drafted tokens.
        drafted_per_position: Entry j counts the steps that drafted a token at position j.
        accepted_per_position: Entry j counts the steps that kept the token drafted there.
        num_spec_steps: Target forwards that scored a draft.
        num_accepted_draft_tokens: Drafted tokens that were emitted.
        num_draft_tokens: Tokens drafted.
        num_residual_tokens: Tokens drawn from the residual.
        num_bonus_tokens: Bonus tokens.
        num_deferrals: Drafted positions at which the rule deferred to the target.
        queue_seconds: What it waited for a slot.
        seconds: Of the rounds that the request lived in, by what the server waited for: draft, score, verify, host.
        seed: What the request's draws came from; ask for it again to get the same output.
    """

    rule: str = ""
    rule_params: dict[str, Any] = field(default_factory=dict, hash=False)
    lossy: bool = False
    verifier: str = ""
    num_spec_tokens: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_target_calls: int = 0
    tokens_per_target_call: float = 0.0
    mean_acceptance_length: float = 1.0
    draft_acceptance_rate: float = 0.0
    acceptance_histogram: tuple[int, ...] = ()
    drafted_per_position: tuple[int, ...] = ()
    accepted_per_position: tuple[int, ...] = ()
    num_spec_steps: int = 0
    num_accepted_draft_tokens: int = 0
    num_draft_tokens: int = 0
    num_residual_tokens: int = 0
    num_bonus_tokens: int = 0
    num_deferrals: int = 0
    # Measured: two requests that did the same are the same, whatever time they took.
    queue_seconds: float = field(default=0.0, compare=False)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)
    seed: int | None = None

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Statistics:
        """Read the server's JSON; keys that this version does not know are left out.

        Raises:
            TypeError: The JSON is not an object.
        """
        if not isinstance(values, dict):
            raise TypeError(f"{values!r:.80} is not an object")
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        for name in ("acceptance_histogram", "drafted_per_position", "accepted_per_position"):
            known[name] = tuple(known.get(name, ()))
        return cls(**known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished request.

    Attributes:
        text: The whole output.
        token_ids: Its tokens.
        token_sources: Who wrote each; empty unless asked for.
        log_probs: As `Chunk.log_probs`, of each token; empty unless asked for.
        pieces: The text in runs, each with its writer.
        finish_reason: ``"stop"``, ``"length"``, ``"timeout"`` or ``"cancelled"``.
        statistics: What the server counted.
    """

    text: str
    token_ids: tuple[int, ...]
    token_sources: tuple[TokenSource, ...]
    log_probs: tuple[float, ...] = field(repr=False)
    pieces: tuple[Piece, ...] = field(repr=False)
    finish_reason: str
    statistics: Statistics

    @classmethod
    def from_chunks(cls, chunks: Iterable[Chunk], statistics: Statistics) -> Result:
        """Join the chunks of one request, the last of which says why it ended."""
        chunks = tuple(chunks)
        return cls(
            text="".join(chunk.text for chunk in chunks),
            token_ids=tuple(token for chunk in chunks for token in chunk.token_ids),
            token_sources=tuple(source for chunk in chunks for source in chunk.token_sources),
            log_probs=tuple(log_prob for chunk in chunks for log_prob in chunk.log_probs),
            pieces=tuple(piece for chunk in chunks for piece in chunk.pieces),
            finish_reason=(chunks[-1].finish_reason or "") if chunks else "",
            statistics=statistics,
        )
