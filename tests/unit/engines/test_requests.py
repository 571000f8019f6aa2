"""What an engine accepts, refuses and does with a request from outside its thread."""

from __future__ import annotations

import time
from threading import Thread

import pytest

from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError, EngineError
from spec_cascade.rules import parse_rule
from tests.tiny import VOCAB, standing_still, tiny_engine, tiny_llama


def test_each_bad_request_is_refused_by_the_name_of_its_field() -> None:
    engine = tiny_engine(tiny_llama(), tiny_llama(), max_seq_len=32)
    refused = [
        ("prompt", lambda: GenerationRequest(prompt_ids=())),
        ("prompt", lambda: GenerationRequest(prompt_ids=(1,) * 32)),
        ("prompt", lambda: GenerationRequest(prompt_ids=(VOCAB,))),
        ("draft_length", lambda: GenerationRequest(prompt_ids=(1,), draft_length=-2)),
        ("timeout_ms", lambda: GenerationRequest(prompt_ids=(1,), timeout_ms=0)),
        ("draft_length", lambda: GenerationRequest(prompt_ids=(1,), draft_length=17)),
    ]
    try:
        for field, make in refused:
            with pytest.raises(ConfigError) as caught:
                engine.submit(make())
            assert caught.value.field == field
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 1e-38),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 1.0),
        ("seed", -1),
        ("seed", 2**64),
        ("max_tokens", 0),
        ("stop_strings", ("",)),
        ("stop_token_ids", (-1,)),
    ],
)
def test_sampling_parameters_out_of_range_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**{field: value})  # type: ignore[arg-type]
    assert caught.value.field == field


def test_a_rule_without_meaning_is_refused_for_the_request_and_at_start() -> None:
    engine = tiny_engine(tiny_llama(), "lookup")
    try:
        with pytest.raises(ConfigError, match="deferral_rule"):
            engine.submit(GenerationRequest(prompt_ids=(1,), rule=parse_rule("chow:alpha=0.5")))
    finally:
        engine.close()
    with pytest.raises(ConfigError, match="deferral_rule"):
        tiny_engine(tiny_llama(), "lookup", rule="chow:alpha=0.5")


def test_lossy_rules_start_strict_and_the_statistics_say_so() -> None:
    engine = tiny_engine(tiny_llama(), tiny_llama())
    try:
        request = GenerationRequest(prompt_ids=(1, 2), rule=parse_rule("token_v3:alpha=0.8"))
        *_, last = engine.submit(request)
    finally:
        engine.close()
    assert last.statistics is not None
    assert last.statistics.rule == "token_v3:alpha=0.8,strict_prefix_tokens=4"
    assert last.statistics.lossy


def test_close_ends_what_runs_and_what_waits() -> None:
    engine = tiny_engine(tiny_llama(), None, max_batch_size=1)
    request = GenerationRequest(prompt_ids=(1, 2), sampling=SamplingParams(max_tokens=150))
    ends: list[FinishReason | None] = []
    with standing_still(engine):
        readers = [
            Thread(target=lambda run=run: ends.append([*run][-1].finish_reason))
            for run in [engine.submit(request) for _ in range(3)]
        ]
        closer = Thread(target=engine.close)
        for thread in (*readers, closer):
            thread.start()
        while not engine._closing:
            time.sleep(0.001)
    for thread in (*readers, closer):
        thread.join(30)
        assert not thread.is_alive()
    assert ends == [FinishReason.CANCELLED] * 3
    with pytest.raises(EngineError, match="closed"):
        engine.submit(GenerationRequest(prompt_ids=(1,)))
    engine.close()


def test_a_failed_round_ends_its_requests_with_an_error_and_the_engine_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = tiny_engine(tiny_llama(), tiny_llama())
    failures = iter([RuntimeError("out of memory")])
    forward = engine._loop.target.forward

    def failing(feeds: object) -> object:
        for error in failures:
            raise error
        return forward(feeds)  # type: ignore[arg-type]

    monkeypatch.setattr(engine._loop.target, "forward", failing)
    try:
        last = [*engine.submit(GenerationRequest(prompt_ids=(1, 2)))][-1]
        assert last.finish_reason is FinishReason.ERROR
        assert last.error is not None
        assert "out of memory" not in last.error
        assert "out of memory" in caplog.text
        after = [*engine.submit(GenerationRequest(prompt_ids=(1, 2)))][-1]
        assert after.finish_reason is FinishReason.LENGTH
    finally:
        engine.close()


def test_a_generation_that_has_ended_has_nothing_more() -> None:
    engine = tiny_engine(tiny_llama(), tiny_llama())
    try:
        generation = engine.submit(GenerationRequest(prompt_ids=(1, 2), sampling=SamplingParams(max_tokens=3)))
        assert list(generation)
        assert not list(generation)
    finally:
        engine.close()
