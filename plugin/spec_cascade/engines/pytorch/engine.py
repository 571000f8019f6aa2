"""The embedded engine: the decoding loop in a thread of its own."""

from __future__ import annotations

import logging
from functools import partial
from threading import Lock, Thread
from typing import TYPE_CHECKING

from spec_cascade.decoding.loop import DecodingLoop
from spec_cascade.decoding.policy import DraftPolicy, PolicySettings
from spec_cascade.decoding.request import AUTO, FinishReason
from spec_cascade.decoding.scheduler import Scheduler
from spec_cascade.decoding.statistics import EngineStatistics, KvUse
from spec_cascade.decoding.warm_up import warm_up
from spec_cascade.engines.admission import Admission
from spec_cascade.engines.generation import SequenceGeneration
from spec_cascade.engines.pytorch.workers import release_workers
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import torch

    from spec_cascade.decoding.models import Drafter, LanguageModel
    from spec_cascade.decoding.request import GenerationRequest
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.decoding.stop import StopConditions
    from spec_cascade.engines.protocol import EngineLimits

log = logging.getLogger(__name__)

_IDLE_SECONDS = 0.5


class PytorchEngine:
    """Implements `engines.protocol.Engine` over two models.

    Args:
        target: The large model.
        drafter: Proposes; None decodes with the target alone.
        limits: What is accepted.
        stop: Where outputs end.
        prefill_chunk: Most prompt tokens of one request in one forward.
        device: Where the models are.
        fallback: Whether the default draft length gives way to plain decoding while drafts do not pay.
        bad_word_ids: The token sequences that a bad word may be written as; None where there is no tokenizer.

    Raises:
        ConfigError: The default rule has no meaning with this drafter.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafter: Drafter | None,
        limits: EngineLimits,
        stop: StopConditions,
        *,
        prefill_chunk: int,
        device: torch.device,
        fallback: bool = False,
        bad_word_ids: Callable[[str], Iterable[tuple[int, ...]]] | None = None,
    ) -> None:
        self._limits = limits
        self._admission = Admission(limits, stop, None if drafter is None else drafter.drafts, bad_word_ids)
        self._scheduler = Scheduler(max_batch_size=limits.max_batch_size, max_queue_size=limits.max_queue_size)
        self._loop = DecodingLoop(
            target,
            drafter,
            self._scheduler,
            stop,
            DraftPolicy(PolicySettings(max_draft_length=limits.max_draft_length, fallback=fallback)),
            prefill_chunk=prefill_chunk,
            vocab_size=limits.vocab_size,
            device=device,
        )
        measures = drafter is not None and (fallback or limits.default_draft_length == AUTO)
        if measures or device.type == "cuda":
            # The policy needs to know what rounds cost, and a GPU compiles and captures, before the first request.
            warm_up(self._loop, limits)
        # The models were loaded, and perhaps run, on this thread: from here on the loop's computes.
        release_workers()
        self._lock = Lock()
        self._closing = False
        self._thread = Thread(target=self._run, name="spec-cascade-loop", daemon=True)
        self._thread.start()

    @property
    def limits(self) -> EngineLimits:
        """What the engine accepts."""
        return self._limits

    def submit(self, request: GenerationRequest) -> SequenceGeneration:
        """Queue a request; see `engines.protocol.Engine.submit`."""
        sequence = self._admission.admit(request)
        sequence.shaping = self._admission.shaping(request)
        with self._lock:
            if self._closing:
                raise EngineError("the engine is closed")
            self._scheduler.add(sequence)
        return SequenceGeneration(sequence, partial(self._cancel, sequence))

    def statistics(self) -> EngineStatistics:
        """A snapshot; the totals are those of finished requests."""
        snapshot = self._loop.statistics()
        snapshot.num_running = len(self._scheduler.running)
        snapshot.num_waiting = self._scheduler.num_waiting
        snapshot.num_slots = self._limits.max_batch_size
        snapshot.kv = self._kv_use()
        return snapshot

    def close(self) -> None:
        """Cancel what runs and waits, and stop the thread."""
        with self._lock:
            self._closing = True
        self._scheduler.wake()
        self._thread.join()

    def _cancel(self, sequence: Sequence) -> None:
        sequence.cancelled.set()
        self._scheduler.wake()

    def _kv_use(self) -> KvUse:
        # A request takes a whole slot, however few tokens are in it.
        slots = self._limits.max_batch_size
        return KvUse(
            tokens_per_block=self._limits.max_seq_len,
            num_used_blocks=len(self._scheduler.running),
            num_blocks=slots,
            num_tokens=sum(self._loop.target.length(slot) for slot in range(slots)),
        )

    def _run(self) -> None:
        while not self._closing:
            if self._scheduler.is_idle:
                release_workers()
            self._scheduler.wait(_IDLE_SECONDS)
            try:
                self._loop.step()
            except Exception:  # whatever a model raises must not end the thread: its requests fail, others go on
                log.exception("a round failed; its requests are ended")
                self._loop.abandon(FinishReason.ERROR, error="the engine failed; see the server's log")
        self._loop.abandon(FinishReason.CANCELLED)
