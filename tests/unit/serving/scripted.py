"""An engine that does what each request's seed says: the protocol without models, for what models cannot be made to do.

It needs nothing of the tests around it: the tests against the real server copy it beside a model.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason, GenerationRequest, RoundOutput, TokenSource
from spec_cascade.decoding.statistics import EngineStatistics, RequestStatistics
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.rules import parse_rule

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO, QUIET, HUSHED, FAIL, RAISE, SLOW = range(6)
"""Seeds: repeat the prompt token by token; say nothing until cancelled; say nothing after the first round; fail in the
second round; break in the second round; be slow."""
SLOW_SECONDS = 0.05
STATE_VARIABLE = "SCRIPTED_ENGINE_STATE"
"""Names a file in which the engine keeps its counts, for tests in another process."""
HOLD_VARIABLE = "SCRIPTED_ENGINE_HOLD"
"""Names a file; while it is there the engine runs no rounds."""


@dataclass
class ScriptedEngine:
    """Implements `engines.protocol.Engine`."""

    limits: EngineLimits = field(
        default_factory=lambda: EngineLimits(
            max_batch_size=4,
            max_seq_len=1000,
            max_draft_length=8,
            max_queue_size=2,
            vocab_size=1000,
            default_rule=parse_rule("strict"),
            default_draft_length=4,
        )
    )
    live: int = 0
    cancelled: int = 0
    closed: Event = field(default_factory=Event)
    lock: Lock = field(default_factory=Lock)

    def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        if self.closed.is_set():
            raise EngineError("the engine is closed")
        if request.draft_length is not None and request.draft_length > self.limits.max_draft_length:
            raise ConfigError("draft_length", request.draft_length, f"at most {self.limits.max_draft_length}")
        with self.lock:
            if self.live >= self.limits.max_batch_size + self.limits.max_queue_size:
                raise QueueFullError("too many requests wait; send it again later")
        self.count(live=1)
        return ScriptedGeneration(self, request)

    def count(self, *, live: int = 0, cancelled: int = 0) -> None:
        with self.lock:
            self.live += live
            self.cancelled += cancelled
            if (path := os.environ.get(STATE_VARIABLE)) is not None:
                # Replaced in one step: whoever reads it sees the old counts or the new.
                partial = Path(f"{path}.partial")
                partial.write_text(json.dumps({"live": self.live, "cancelled": self.cancelled}))
                partial.replace(path)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(num_running=self.live, num_slots=self.limits.max_batch_size)

    def close(self) -> None:
        self.closed.set()


@dataclass
class ScriptedGeneration:
    """Implements `engines.protocol.Generation`."""

    engine: ScriptedEngine
    request: GenerationRequest
    cancelled: Event = field(default_factory=Event)

    def __iter__(self) -> Iterator[RoundOutput]:
        try:
            yield from self._rounds()
        finally:
            self.engine.count(live=-1)

    def cancel(self) -> None:
        if not self.cancelled.is_set():
            self.cancelled.set()
            self.engine.count(cancelled=1)

    def _rounds(self) -> Iterator[RoundOutput]:
        mode, prompt, wanted = self.request.sampling.seed, self.request.prompt_ids, self.request.sampling.max_tokens
        while Path(os.environ.get(HOLD_VARIABLE, "/nonexistent")).exists():
            time.sleep(0.005)
        for i in range(wanted):
            while not self._is_over():
                if mode != QUIET and not (mode == HUSHED and i):
                    break
                time.sleep(0.005)
            if self._is_over():
                yield self._output(i, (), FinishReason.CANCELLED)
                return
            if mode == FAIL and i == 1:
                yield self._output(i, (), FinishReason.ERROR, error="the GPU is on fire")
                return
            if mode == RAISE and i == 1:
                raise RuntimeError("a secret of the server, in /a/path")
            if mode == SLOW:
                time.sleep(SLOW_SECONDS)
            yield self._output(i, (prompt[i % len(prompt)],), FinishReason.LENGTH if i + 1 == wanted else None)

    def _is_over(self) -> bool:
        return self.cancelled.is_set() or self.engine.closed.is_set()

    def _output(
        self, index: int, token_ids: tuple[int, ...], reason: FinishReason | None, error: str | None = None
    ) -> RoundOutput:
        return RoundOutput(
            index=index,
            token_ids=token_ids,
            sources=tuple(TokenSource.TARGET for _ in token_ids),
            finish_reason=reason,
            statistics=RequestStatistics(num_output_tokens=index + len(token_ids)) if reason is not None else None,
            error=error,
        )
