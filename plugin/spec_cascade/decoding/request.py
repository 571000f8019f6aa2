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
    TIMEOUT = "timeout"
    """``timeout_ms`` passed; what was emitted before stands."""
    CANCELLED = "cancelled"
    """The client cancelled or went away."""
    ERROR = "error"
    """The engine failed; `RoundOutput.error` says how."""


AUTO = -1
"""A draft length: the engine picks it, round by round, from what it measures; 0 is among its choices."""


DEFAULT_PRIORITY = 0.5
"""As in TensorRT-LLM's executor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One prompt to continue.

    Attributes:
        prompt_ids: The prompt, at least one token.
        rule: Deferral rule of this request; None takes the engine's default.
        draft_length: Most tokens to draft per round; 0 is plain target decoding; `AUTO` leaves it to the engine; None
            takes the engine's default. A number is an order: no fallback overrules it.
        reproducible: The output depends on the request alone: where the engine would go by what it measures, it drafts
            a fixed number of tokens instead.
        timeout_ms: Milliseconds after submission at which the request ends with what it has; None is no limit.
        priority: In [0, 1]. Of the requests that wait, the one with the highest gets the next free slot; of equal ones
            the one that came first. What runs is not interrupted.
    """

    prompt_ids: tuple[int, ...]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    rule: DeferralRule | None = None
    draft_length: int | None = None
    reproducible: bool = False
    timeout_ms: int | None = None
    priority: float = DEFAULT_PRIORITY

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ConfigError("prompt", self.prompt_ids, "at least one token")
        if self.draft_length is not None and self.draft_length < AUTO:
            raise ConfigError("draft_length", self.draft_length, f"an integer >= 0, or {AUTO} for automatic")
        if self.timeout_ms is not None and self.timeout_ms < 1:
            raise ConfigError("timeout_ms", self.timeout_ms, "an integer >= 1")
        if not 0 <= self.priority <= 1:
            raise ConfigError("priority", self.priority, "a number in [0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundOutput:
    """What one request gained in one round: a streamed chunk.

    Attributes:
        index: Number of this chunk within its request, from 0.
        token_ids: The new tokens, cut at a stop condition; may be empty on the last chunk.
        sources: Who wrote each of them.
        log_probs: Of each token, where the request asked for them: the log of the target's probability, at temperature
            1 and without truncation, after penalties; whoever wrote the token.
        finish_reason: Set on the last chunk only.
        statistics: Set on the last chunk only.
        error: Text for the user when `finish_reason` is ERROR.
    """

    index: int
    token_ids: tuple[int, ...]
    sources: tuple[TokenSource, ...]
    log_probs: tuple[float, ...] = ()
    finish_reason: FinishReason | None = None
    statistics: RequestStatistics | None = None
    error: str | None = None
