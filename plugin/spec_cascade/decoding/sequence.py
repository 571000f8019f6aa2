"""A live request: its tokens, its slot, its counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Event
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import AUTO, FinishReason, GenerationRequest, RoundOutput, TokenSource
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade.rules import Place

if TYPE_CHECKING:
    from spec_cascade.decoding.shaping import Shaping
    from spec_cascade.rules import DeferralRule


@dataclass(slots=True, eq=False)
class Sequence:
    """State of one request between rounds.

    Attributes:
        rule: The rule that runs, guards included.
        draft_length: Most tokens to draft per round, or `AUTO`.
        token_ids: Prompt and output. The newest token is in no KV cache yet; all others are in the target's once the
            prompt has been processed.
        shaping: What the request does to both models' logits; None is nothing.
        submitted: When it was queued, on `time.monotonic`'s clock.
        deadline: When it ends at the latest, on `time.monotonic`'s clock; None is never.
        speculates: Whether the drafter follows it in this round.
        slot: Its slot in the KV caches; -1 while it waits.
        outputs: Where its chunks go.
        cancelled: Set by any thread; the loop looks at it between rounds.
    """

    request: GenerationRequest
    rule: DeferralRule
    draft_length: int
    token_ids: list[int]
    shaping: Shaping | None = None
    submitted: float = 0.0
    deadline: float | None = None
    speculates: bool = False
    slot: int = -1
    num_chunks: int = 0
    statistics: RequestStatistics = field(default_factory=RequestStatistics)
    outputs: SimpleQueue[RoundOutput] = field(default_factory=SimpleQueue)
    cancelled: Event = field(default_factory=Event)

    @property
    def num_emitted(self) -> int:
        """Output tokens so far."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def output_ids(self) -> list[int]:
        """The output so far."""
        return self.token_ids[len(self.request.prompt_ids) :]

    @property
    def may_draft(self) -> bool:
        """Whether this request is ever drafted for."""
        return self.rule.drafts and (self.draft_length > 0 or self.draft_length == AUTO)

    @property
    def draft_length_is_fixed(self) -> bool:
        """Whether measurements must not change it: the request itself names a number, or asks to be reproducible."""
        return self.request.reproducible or self.request.draft_length not in (None, AUTO)

    @property
    def end_reason(self) -> FinishReason | None:
        """Why it must end now, whatever it has; None if it need not."""
        if self.cancelled.is_set():
            return FinishReason.CANCELLED
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return FinishReason.TIMEOUT
        return None

    @property
    def seed(self) -> int:
        """The seed as a signed 64-bit integer, as tensors hold it."""
        seed = self.request.sampling.seed
        return seed - 2**64 if seed >= 2**63 else seed

    @property
    def place(self) -> Place:
        """Where the next token stands."""
        return Place(self.num_emitted, self.token_ids)

    def emit(
        self,
        token_ids: list[int],
        sources: list[TokenSource],
        finish_reason: FinishReason | None,
        *,
        log_probs: list[float] | None = None,
        error: str | None = None,
    ) -> None:
        """Send one chunk."""
        self.outputs.put(
            RoundOutput(
                index=self.num_chunks,
                token_ids=tuple(token_ids),
                sources=tuple(sources),
                log_probs=tuple(log_probs or ()),
                finish_reason=finish_reason,
                statistics=self.statistics if finish_reason is not None else None,
                error=error,
            )
        )
        self.num_chunks += 1
