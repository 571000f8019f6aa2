"""Requests of `CascadeLLM` come to an end, whatever TensorRT-LLM says or does not say of them."""

from __future__ import annotations

import threading
import time
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.request import FinishReason
from spec_cascade.engines.tensorrt_llm import llm as module
from spec_cascade.engines.tensorrt_llm.live import LiveRequest
from spec_cascade.errors import EngineError
from tests.trtllm_fake import hugging_face
from tests.unit.trtllm.running import TARGET, WINDOW, ask, cut_at, held, running, tokens

if TYPE_CHECKING:
    from spec_cascade.decoding.request import RoundOutput
    from spec_cascade.engines.protocol import Generation
    from spec_cascade.engines.tensorrt_llm.llm import CascadeLLM

SECONDS = 60.0


def read(generation: Generation) -> list[RoundOutput]:
    """All that comes of a request; it has to end."""
    outputs: list[RoundOutput] = []
    reader = Thread(target=lambda: outputs.extend(generation), daemon=True)
    reader.start()
    reader.join(SECONDS)
    assert not reader.is_alive(), "the request does not end"
    return outputs


def empty(engine: CascadeLLM) -> bool:
    """Whether it comes to have no request any more."""
    until = time.monotonic() + SECONDS
    while engine.statistics().num_running and time.monotonic() < until:
        time.sleep(0.02)
    return engine.statistics().num_running == 0


def threads() -> list[Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "spec-cascade-trtllm"]


def test_what_ends_while_it_waits_ends_though_tensorrt_llm_says_nothing_of_it() -> None:
    with (
        held(hugging_face(TARGET, max_seq_len=WINDOW)) as (slow, go),
        running("s15", target=slow, batch=1, queue=2) as engine,
    ):
        first = engine.submit(ask(seed=1))
        cancelled, late = engine.submit(ask(seed=2)), engine.submit(ask(seed=3, timeout_ms=50))
        cancelled.cancel()
        # No round has ended yet: TensorRT-LLM has not even heard of it.
        assert [output.finish_reason for output in read(cancelled)] == [FinishReason.CANCELLED]
        assert [output.finish_reason for output in read(late)] == [FinishReason.TIMEOUT]
        go.set()
        assert read(first)[-1].finish_reason is FinishReason.LENGTH
        assert empty(engine)
        # Their places are free again.
        assert len([read(generation) for generation in [engine.submit(ask(seed=i)) for i in range(3)]]) == 3


def test_closing_ends_what_runs_and_what_waits() -> None:
    with (
        held(hugging_face(TARGET, max_seq_len=WINDOW)) as (slow, go),
        running("s15", target=slow, batch=1, queue=2) as engine,
    ):
        generations = [engine.submit(ask(seed=i)) for i in range(3)]
        closing = Thread(target=engine.close, daemon=True)
        closing.start()
        assert [read(generation)[-1].finish_reason for generation in generations] == [FinishReason.CANCELLED] * 3
        go.set()
        closing.join(SECONDS)
        assert not closing.is_alive()
    assert threads() == []


def test_a_request_that_is_cancelled_in_a_round_which_never_ends_keeps_what_it_had() -> None:
    model = hugging_face(TARGET, max_seq_len=WINDOW)
    with held(model, beyond=12) as (slow, go), running("s15", target=slow) as engine:
        generation = engine.submit(ask(seed=1))
        first = next(iter(generation))
        generation.cancel()
        outputs = read(generation)
        assert outputs[-1].finish_reason is FinishReason.CANCELLED
        assert outputs[-1].statistics is not None
        assert outputs[-1].statistics.num_output_tokens == len(tokens([first, *outputs])) > 0
        assert empty(engine)
        go.set()


def test_only_what_tensorrt_llm_would_go_on_with_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("s15", eos=(3,)) as engine:
        free = tokens(read(engine.submit(ask(seed=1, ignore_eos=True))))
    word = tuple(free[4:6])
    with running("s15", eos=(3,), cut=cut_at(word)) as engine:
        from tensorrt_llm.executor.result import GenerationResult

        dropped: list[int] = []
        abort = GenerationResult.abort

        def noted(self: Any) -> None:
            dropped.append(self.request_id)
            abort(self)

        monkeypatch.setattr(GenerationResult, "abort", noted)
        for request, reason, drops in [
            (ask(seed=1, max_tokens=5, ignore_eos=True), FinishReason.LENGTH, 0),
            (ask(seed=1, stop_token_ids=(free[4],)), FinishReason.STOP, 0),
            (ask(seed=1, stop_token_ids=(free[4],), ignore_eos=True), FinishReason.STOP, 1),
            (ask(seed=1, stop_strings=("x",), ignore_eos=True), FinishReason.STOP, 1),
        ]:
            dropped.clear()
            assert read(engine.submit(request))[-1].finish_reason is reason
            assert empty(engine)
            assert len(dropped) == drops, request.sampling


def test_a_submit_that_comes_too_late_for_the_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    reached, closed = Event(), Event()

    class Slow(LiveRequest):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            reached.set()
            assert closed.wait(SECONDS)

    refused: list[str] = []

    def submit() -> None:
        try:
            engine.submit(ask(seed=1))
        except EngineError as error:
            refused.append(str(error))

    with running("s15") as engine:
        monkeypatch.setattr(module, "LiveRequest", Slow)
        submitting = Thread(target=submit, daemon=True)
        submitting.start()
        assert reached.wait(SECONDS)
        engine.close()
        closed.set()
        submitting.join(SECONDS)
    assert refused == ["the engine is closed"]


def test_where_tensorrt_llm_fails_to_end_our_thread_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    with running("s15") as engine:
        from tensorrt_llm import LLM

        shutdown = LLM.shutdown

        def failing(self: Any) -> None:
            shutdown(self)
            raise RuntimeError("a worker would not end")

        monkeypatch.setattr(LLM, "shutdown", failing)
        with pytest.raises(RuntimeError, match="would not end"):
            engine.close()
        monkeypatch.undo()
        assert threads() == []
        engine.close()
