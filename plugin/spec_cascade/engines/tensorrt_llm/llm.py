"""`CascadeLLM`: TensorRT-LLM's LLM API behind the protocol that serving knows.

A request is sent whole and comes back round by round as reports of the sampler; what TensorRT-LLM itself returns says
only that it has ended, and how. All that happens to a request happens on one thread, the event loop's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from itertools import count as numbers
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from spec_cascade.decoding.judging import count
from spec_cascade.decoding.request import AUTO, DEFAULT_PRIORITY, FinishReason
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from spec_cascade.errors import ConfigError, EngineError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.judging import Block
    from spec_cascade.decoding.request import GenerationRequest, RoundOutput
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.engines.admission import Admission
    from spec_cascade.engines.protocol import EngineLimits
    from spec_cascade.engines.tensorrt_llm.reports import Report

log = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
"""How long the last report of a request may come after TensorRT-LLM has said that it is over."""


class GenerateAsync(Protocol):
    """What is needed of ``tensorrt_llm.LLM``."""

    def generate_async(self, inputs: list[int], *, sampling_params: Any, streaming: bool) -> Any:
        """Send a request; the result is awaited with ``aresult`` and dropped with ``abort``."""


@dataclass(eq=False)
class _Live:
    """A request that TensorRT-LLM has.

    Attributes:
        sequence: What it has, and where its chunks go.
        result: What TensorRT-LLM gave for it; None until it is sent.
        ended: Set once its last chunk has gone.
        stopped: Why it is being dropped; None while it runs.
    """

    sequence: Sequence
    result: Any = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    stopped: FinishReason | None = None

    def drop(self, reason: FinishReason) -> None:
        """Have TensorRT-LLM give it up; what it gained in the round that runs still comes."""
        self.stopped = self.stopped or reason
        if self.result is not None:
            self.result.abort()


class CascadeGeneration:
    """A submitted request; see `engines.protocol.Generation`."""

    def __init__(self, sequence: Sequence, drop: Callable[[], None]) -> None:
        self._sequence = sequence
        self._drop = drop
        self._ended = False

    def __iter__(self) -> Iterator[RoundOutput]:
        """Block for each round's output until the one with a finish reason."""
        while not self._ended:
            output = self._sequence.outputs.get()
            self._ended = output.finish_reason is not None
            yield output

    def cancel(self) -> None:
        """Drop the request before its next round."""
        self._drop()


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
        self._make_params = make_params
        self._end_ids = tuple(end_ids)
        self._shut_down = close
        self._tags = numbers()
        self._live: dict[int, _Live] = {}
        self._num_live = 0
        self._lock = Lock()
        self._closed = False
        self._statistics = EngineStatistics()
        self._loop = asyncio.new_event_loop()
        self._thread = Thread(target=self._loop.run_forever, name="spec-cascade-trtllm", daemon=True)
        self._thread.start()

    @property
    def limits(self) -> EngineLimits:
        """What the engine accepts."""
        return self._admission.limits

    def submit(self, request: GenerationRequest) -> CascadeGeneration:
        """Queue a request; see `engines.protocol.Engine.submit`."""
        if request.draft_length == AUTO:
            raise ConfigError("draft_length", "auto", "a number: TensorRT-LLM drafts as many tokens in every round")
        if request.priority != DEFAULT_PRIORITY:
            raise ConfigError("priority", request.priority, f"{DEFAULT_PRIORITY}: requests run in order of arrival")
        sequence = self._admission.admit(request)
        tag = next(self._tags)
        params = self._params(sequence, tag)
        most = self.limits.max_batch_size + self.limits.max_queue_size
        with self._lock:
            if self._closed:
                raise EngineError("the engine is closed")
            if self._num_live >= most:
                raise QueueFullError(f"too many requests wait: {self.limits.max_queue_size}; send it again later")
            self._num_live += 1
        sequence.submitted = time.monotonic()
        live = _Live(sequence)
        asyncio.run_coroutine_threadsafe(self._run(tag, live, params), self._loop)
        return CascadeGeneration(sequence, partial(self._on_loop, live.drop, FinishReason.CANCELLED))

    def receive(self, reports: list[Report]) -> None:
        """Take the reports of a round; any thread may call it."""
        self._on_loop(self._take, reports)

    def statistics(self) -> EngineStatistics:
        """A snapshot; the totals are those of finished requests."""
        with self._lock:
            snapshot, live = self._statistics.copy(), self._num_live
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
        asyncio.run_coroutine_threadsafe(self._end_all(), self._loop).result()
        self._shut_down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _on_loop(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the engine has closed
            self._loop.call_soon_threadsafe(call, *arguments)

    def _params(self, sequence: Sequence, tag: int) -> Any:
        sampling = sequence.request.sampling
        own = () if sampling.ignore_eos else self._end_ids
        return self._make_params(
            end_id=own[0] if own else -1,
            pad_id=own[0] if own else 0,
            ignore_eos=not own,
            stop_token_ids=[*own[1:], *sampling.stop_token_ids] or None,
            include_stop_str_in_output=True,
            max_tokens=self._admission.stop.room(len(sequence.request.prompt_ids), 0, sampling),
            temperature=sampling.temperature,
            top_k=sampling.top_k or None,
            top_p=sampling.top_p,
            detokenize=False,
            logits_processor=CascadeParams(
                tag=tag,
                rule=str(sequence.rule),
                draft_length=sequence.draft_length,
                seed=sampling.seed,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                bad_word_ids=tuple(self._admission.banned(sampling.bad_words)),
                end_ids=tuple(sorted(self._admission.stop.end_ids(sampling))),
                min_tokens=sampling.min_tokens,
                log_probs=sampling.log_probs,
            ),
        )

    async def _run(self, tag: int, live: _Live, params: Any) -> None:
        """Send a request, and see to it that it ends."""
        self._live[tag] = live
        error: str | None = None
        try:
            prompt = list(live.sequence.request.prompt_ids)
            live.result = self._llm.generate_async(prompt, sampling_params=params, streaming=False)
            if live.stopped is not None:
                live.result.abort()
            await self._until_over(live)
        except Exception:  # whatever TensorRT-LLM raises: its request fails, and no other one
            log.exception("a request failed in TensorRT-LLM")
            error = "the engine failed; see the server's log"
        finally:
            if not live.ended.is_set():
                reason = FinishReason.ERROR if error else live.stopped
                self._finish(live, reason or FinishReason.ERROR, error=error or _unexplained(reason))
            del self._live[tag]
            with self._lock:
                self._num_live -= 1

    async def _until_over(self, live: _Live) -> None:
        """Wait for the request's end, its deadline, and its last report."""
        over = asyncio.ensure_future(live.result.aresult())
        deadline = live.sequence.deadline
        if deadline is not None:
            await asyncio.wait({over}, timeout=max(0.0, deadline - time.monotonic()))
            if not over.done():
                live.drop(FinishReason.TIMEOUT)
        await over
        if live.stopped is None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(live.ended.wait(), REPORT_SECONDS)

    def _take(self, reports: list[Report]) -> None:
        with self._lock:
            self._statistics.num_rounds += 1
            if any(report.block is not None and report.block.drafted for report in reports):
                self._statistics.num_judged_rounds += 1
        for report in reports:
            live = self._live.get(report.tag)
            if live is None or live.ended.is_set():
                continue
            if report.block is None:
                self._finish(live, FinishReason.ERROR, error=report.error)
            else:
                self._commit(live, report.block)

    def _commit(self, live: _Live, block: Block) -> None:
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
        # TensorRT-LLM knows of end tokens and lengths, and not of stop strings.
        live.drop(reason)

    def _finish(
        self,
        live: _Live,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[Any] = (),
        log_probs: Seq[float] = (),
        error: str | None = None,
    ) -> None:
        live.ended.set()
        with self._lock:
            self._statistics.add(reason.value, live.sequence.statistics)
        live.sequence.emit(list(token_ids), list(sources), reason, log_probs=list(log_probs), error=error)

    async def _end_all(self) -> None:
        for live in list(self._live.values()):
            live.drop(FinishReason.CANCELLED)
        while self._live:
            await asyncio.sleep(0.01)


def _unexplained(reason: FinishReason | None) -> str | None:
    return "the engine lost the request's last tokens; see the server's log" if reason is None else None
