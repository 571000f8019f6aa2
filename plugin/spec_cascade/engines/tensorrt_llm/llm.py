"""`CascadeLLM`: TensorRT-LLM's LLM API behind the protocol that serving knows.

A request is sent whole and comes back round by round as reports of the sampler; what TensorRT-LLM itself returns says
only that it has ended, and how. All that happens to a request happens on one thread, the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import partial
from itertools import count as numbers
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from spec_cascade.decoding.judging import count
from spec_cascade.decoding.request import AUTO, DEFAULT_PRIORITY, FinishReason
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.engines.generation import SequenceGeneration
from spec_cascade.engines.tensorrt_llm.live import ABORT_SECONDS, LiveRequest
from spec_cascade.engines.tensorrt_llm.translation import Translation
from spec_cascade.errors import ConfigError, EngineError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.judging import Block
    from spec_cascade.decoding.request import GenerationRequest
    from spec_cascade.engines.admission import Admission
    from spec_cascade.engines.protocol import EngineLimits
    from spec_cascade.engines.tensorrt_llm.reports import Report

log = logging.getLogger(__name__)

_FAILED = "the engine failed; see the server's log"
_LOST = "the engine lost tokens of the request; see the server's log"
_GONE = "the process that decodes has ended; see the server's log"


class GenerateAsync(Protocol):
    """What is needed of ``tensorrt_llm.LLM``."""

    def generate_async(self, inputs: list[int], *, sampling_params: Any, streaming: bool) -> Any:
        """Send a request; the result is awaited with ``aresult`` and dropped with ``abort``."""


class CascadeLLM:
    """Implements `engines.protocol.Engine` over TensorRT-LLM.

    Args:
        llm: A ``tensorrt_llm.LLM`` whose sampler is `CascadeSampler`.
        admission: Makes requests sequences.
        make_params: ``tensorrt_llm.SamplingParams``.
        end_ids: The target's own end tokens.
        close: Ends TensorRT-LLM and all that was opened for it.
    """

    def __init__(
        self,
        llm: GenerateAsync,
        admission: Admission,
        make_params: Callable[..., Any],
        *,
        end_ids: Seq[int],
        close: Callable[[], object],
    ) -> None:
        self._llm = llm
        self._admission = admission
        self._translation = Translation(make_params, admission, tuple(end_ids))
        self._shut_down = close
        self._tags = numbers()
        self._live: dict[int, LiveRequest] = {}
        self._lock = Lock()
        self._closed = False
        self._lost = False
        self._statistics = EngineStatistics()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="spec-cascade-trtllm", daemon=True)
        self._thread.start()

    @property
    def limits(self) -> EngineLimits:
        """What the engine accepts."""
        return self._admission.limits

    def submit(self, request: GenerationRequest) -> SequenceGeneration:
        """Queue a request; see `engines.protocol.Engine.submit`."""
        if request.draft_length == AUTO:
            raise ConfigError("draft_length", "auto", "a number: TensorRT-LLM drafts as many tokens in every round")
        if request.priority != DEFAULT_PRIORITY:
            raise ConfigError("priority", request.priority, f"{DEFAULT_PRIORITY}: requests run in order of arrival")
        with self._lock:
            self._require_room()  # before work is done for a request that has no place
        sequence = self._admission.admit(request)
        tag = next(self._tags)
        params = self._translation.params(sequence, tag)
        live = LiveRequest(sequence)
        with self._lock:
            self._require_room()
            sequence.submitted = time.monotonic()
            self._live[tag] = live
            # Whoever closes the engine has to find it here, and the loop at work.
            asyncio.run_coroutine_threadsafe(self._run(tag, live, params), self._loop)
        return SequenceGeneration(sequence, partial(self._on_loop, self._drop, live, FinishReason.CANCELLED))

    def receive(self, reports: list[Report]) -> None:
        """Take the reports of a round; any thread may call it."""
        self._on_loop(self._take, reports)

    def lose(self) -> None:
        """Fail all that runs and all that comes: nobody reports rounds any more. Any thread may call it."""
        with self._lock:
            if self._closed or self._lost:
                return
            self._lost = True
        log.error("the process of TensorRT-LLM that reports the rounds has ended: no request can be served any more")
        self._on_loop(self._fail_all, _GONE)

    def statistics(self) -> EngineStatistics:
        """A snapshot; the totals are those of finished requests."""
        with self._lock:
            snapshot, live = self._statistics.copy(), len(self._live)
        snapshot.num_slots = self.limits.max_batch_size
        snapshot.num_running = min(live, snapshot.num_slots)
        snapshot.num_waiting = live - snapshot.num_running
        return snapshot

    def close(self) -> None:
        """Cancel what runs, end TensorRT-LLM and stop the thread. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        finally:
            try:
                self._shut_down()
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    def _require_room(self) -> None:
        if self._closed:
            raise EngineError("the engine is closed")
        if self._lost:
            raise EngineError(_GONE)
        if len(self._live) >= self.limits.max_batch_size + self.limits.max_queue_size:
            raise QueueFullError(f"too many requests wait: {self.limits.max_queue_size}; send it again later")

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the engine has closed
            self._loop.call_soon_threadsafe(call, *arguments)

    async def _run(self, tag: int, live: LiveRequest, params: Any) -> None:
        """Send a request, and see to it that it ends."""
        prompt, deadline = list(live.sequence.request.prompt_ids), live.sequence.deadline
        error: str | None = None
        late = None
        if deadline is not None:
            late = self._loop.call_later(deadline - time.monotonic(), self._drop, live, FinishReason.TIMEOUT)
        try:
            if live.stopped is None:
                live.result = self._llm.generate_async(prompt, sampling_params=params, streaming=False)
                await live.until_over()
        except Exception:  # whatever TensorRT-LLM raises: its request fails, and no other one
            log.exception("a request failed in TensorRT-LLM")
            error = _FAILED
        finally:
            if late is not None:
                late.cancel()
            with self._lock:
                del self._live[tag]
            if error is None and live.stopped is not None:
                self._finish(live, live.stopped)
            else:
                self._finish(live, FinishReason.ERROR, error=error or _LOST)

    def _take(self, reports: list[Report]) -> None:
        with self._lock:
            self._statistics.num_rounds += 1
            if any(report.block is not None and report.block.drafted for report in reports):
                self._statistics.num_judged_rounds += 1
        for report in reports:
            live = self._live.get(report.tag)
            if live is None or live.ended:
                continue
            try:
                self._follow(live, report)
            except Exception:  # whatever a stop condition raises: its request fails, and no other one
                log.exception("a report could not be followed; its request is ended")
                self._fail(live, _FAILED)

    def _follow(self, live: LiveRequest, report: Report) -> None:
        """Give a request what a round gave it."""
        num_emitted = live.sequence.num_emitted
        if report.block is None:
            self._fail(live, report.error)
        elif report.position != num_emitted:
            log.error("a report came of token %d and on, and none of %d and on", report.position, num_emitted)
            self._fail(live, _LOST)
        else:
            self._commit(live, report.block)

    def _commit(self, live: LiveRequest, block: Block) -> None:
        sequence = live.sequence
        prompt_length, sampling = len(sequence.request.prompt_ids), sequence.request.sampling
        kept, reason = self._admission.stop.cut(prompt_length, sequence.output_ids, block.token_ids, sampling)
        if not sequence.num_emitted:
            sequence.statistics.queue_seconds = time.monotonic() - sequence.submitted
        sequence.token_ids.extend(kept)
        sources, log_probs = block.sources[: len(kept)], block.log_probs[: len(kept)]
        count(sequence, block, sources)
        if reason is None:
            sequence.emit(kept, sources, None, log_probs=log_probs)
            return
        self._finish(live, reason, kept, sources, log_probs)
        if reason is FinishReason.STOP and not self._translation.says_stop(sampling, kept):
            live.drop(reason)

    def _drop(self, live: LiveRequest, reason: FinishReason) -> None:
        """Give up a request; one that has nothing yet ends here: it may wait, and nobody would say that it is over."""
        live.drop(reason)
        if not live.sequence.num_emitted:
            self._finish(live, reason)

    def _fail(self, live: LiveRequest, error: str) -> None:
        self._finish(live, FinishReason.ERROR, error=error)
        live.drop(FinishReason.ERROR)

    def _fail_all(self, error: str) -> None:
        for live in self._all_live():
            self._fail(live, error)

    def _finish(
        self,
        live: LiveRequest,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[Any] = (),
        log_probs: Seq[float] = (),
        error: str | None = None,
    ) -> None:
        """Send a request's last chunk, unless it has gone."""
        if live.ended:
            return
        live.ended = True
        live.settled.set()
        with self._lock:
            self._statistics.add(reason.value, live.sequence.statistics)
        live.sequence.emit(list(token_ids), list(sources), reason, log_probs=list(log_probs), error=error)

    def _all_live(self) -> list[LiveRequest]:
        with self._lock:
            return list(self._live.values())

    async def _end_all(self) -> None:
        for live in self._all_live():
            self._drop(live, FinishReason.CANCELLED)
        until = time.monotonic() + 2 * ABORT_SECONDS
        while self._live and time.monotonic() < until:
            await asyncio.sleep(0.01)
