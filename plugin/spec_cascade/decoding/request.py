"""What goes into an engine (a request) and what comes out of it (one output per round)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from spec_cascade.decoding.statistics import RequestStatistics
    from spec_cascade.rules import DeferralRule


class TokenSource(IntEnum):
    """Who wrote an emitted token; the values travel on the wire."""

    DRAFTER = 0
    """Drafted, and kept by the verifier."""
    RESIDUAL = 1
    """Drawn from the target's residual in place of a rejected draft."""
    BONUS = 2
    """The target's extra token after a block that was accepted whole."""
    TARGET = 3
    """Sampled from the target in a round without a draft."""

    @property
    def is_drafter(self) -> bool:
        """Whether the drafter wrote the token; every other source is the target."""
        return self is TokenSource.DRAFTER


class FinishReason(str, Enum):
    """Why a request ended; the values travel on the wire."""

    STOP = "stop"
    """The end token, a stop token or a stop string."""
    LENGTH = "length"
    """``max_tokens`` emitted, or the engine's ``max_seq_len`` reached."""
    CANCELLED = "cancelled"
    """The client cancelled or went away."""
    ERROR = "error"
    """The engine failed; `RoundOutput.error` says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue.

    Attributes:
        prompt_ids: The prompt, at least one token.
        rule: Deferral rule of this request; None takes the engine's default.
        draft_length: Most tokens to draft per round; 0 is plain target decoding; None takes the engine's default.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rule: DeferralRule | None = None
    draft_length: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ConfigError("prompt", self.prompt_ids, "at least one token")
        if self.draft_length is not None and self.draft_length < 0:
            raise ConfigError("draft_length", self.draft_length, "an integer >= 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutput:
    """What one request gained in one round: a streamed chunk.

    Attributes:
        index: Number of this chunk within its request, from 0.
        token_ids: The new tokens, cut at a stop condition; may be empty on the last chunk.
        sources: Who wrote each of them.
        finish_reason: Set on the last chunk only.
        statistics: Set on the last chunk only.
        error: Text for the user when `finish_reason` is ERROR.
    """

    index: int
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    finish_reason: FinishReason | None = None
    statistics: RequestStatistics | None = None
    error: str | None = None
