"""What is counted of the requests that are answered, and when the server is told."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.errors import ConfigError
from spec_cascade.rules import parse_rule
from spec_cascade.serving import metric_families as families
from spec_cascade.serving.live import WATCH_SECONDS, LiveRequests
from tests.unit.serving.recording_registry import RecordingRegistry
from tests.unit.serving.recording_sender import RecordingSender, eventually, request, serving
from tests.unit.serving.scripted import ECHO, FAIL, HUSHED, QUIET, RAISE, ScriptedEngine, ScriptedGeneration


def test_every_end_of_a_request_is_counted_once() -> None:
    registry = RecordingRegistry()
    with serving(registry) as (engine, live):
        seeds = {ECHO: "length", FAIL: "error", RAISE: "error", HUSHED: "cancelled", QUIET: "cancelled"}
        senders = {seed: RecordingSender() for seed in seeds}
        for seed, sender in senders.items():
            live.start(request(seed, rule=parse_rule("token_v3:alpha=0.5") if seed == ECHO else None), sender)
        eventually(lambda: registry.of(families.RUNNING) == {(): 2})
        for seed in (HUSHED, QUIET):
            senders[seed].client_gone = True
        eventually(lambda: sum(registry.of(families.REQUESTS).values()) == 5)
        assert registry.of(families.REQUESTS) == {
            ("length", "token_v3"): 1,
            ("error", "strict"): 2,
            ("cancelled", "strict"): 2,
        }
        emitted = {("target",): sum(len(s.rounds) for s in senders.values())}
        eventually(lambda: registry.of(families.OUTPUT_TOKENS) == emitted)
        eventually(lambda: registry.of(families.RUNNING) == {(): engine.live} == {(): 0})
    assert registry.is_closed
    assert len(registry.threads - {threading.get_ident()}) == 1


def test_until_there_is_a_request_nobody_but_the_model_itself_tells_the_server_anything() -> None:
    """The server may still be loading the model."""
    registry = RecordingRegistry()
    with serving(registry):
        told = registry.updates
        assert registry.of(families.SLOTS) == {(): 4}
        time.sleep(6 * WATCH_SECONDS)
        assert registry.updates == told
    assert registry.threads == {threading.get_ident()}


def test_what_is_refused_is_not_counted() -> None:
    registry = RecordingRegistry()
    with serving(registry) as (_, live):
        with pytest.raises(ConfigError, match="draft_length"):
            live.start(request(ECHO, draft_length=99), RecordingSender())
        live.start(request(ECHO), RecordingSender())
        eventually(lambda: registry.of(families.REQUESTS) == {("length", "strict"): 1})


def test_a_client_that_cannot_be_answered_is_an_error() -> None:
    class Unanswerable(RecordingSender):
        def send(self, values: Any) -> None:
            raise RuntimeError("the pipe is broken")

    registry = RecordingRegistry()
    with serving(registry) as (_, live):
        live.start(request(ECHO, tokens=1), Unanswerable())
        live.start(request(ECHO, tokens=2), Unanswerable())
        eventually(lambda: sum(registry.of(families.REQUESTS).values()) == 2)
        # The first had ended when it was to be sent.
        assert registry.of(families.REQUESTS) == {("length", "strict"): 1, ("error", "strict"): 1}


class Engine(ScriptedEngine):
    """Is slow to take a request, and says no numbers when told."""

    silent = False

    def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        time.sleep(0.2)
        return super().submit(request)

    def statistics(self) -> EngineStatistics:
        if self.silent:
            raise RuntimeError("no numbers")
        return super().statistics()


def test_the_first_token_is_waited_for_from_before_the_engine_has_the_request() -> None:
    registry, engine = RecordingRegistry(), Engine()
    live = LiveRequests(engine, registry)
    live.start(request(ECHO), RecordingSender())
    eventually(lambda: families.TIME_TO_FIRST_TOKEN.name in registry.observed)
    live.close()
    assert registry.observed[families.TIME_TO_FIRST_TOKEN.name][0] >= 0.2


def test_metrics_that_fail_for_a_while_are_published_again_and_nobody_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry, engine = RecordingRegistry(), Engine()
    live = LiveRequests(engine, registry)
    for times in (1, 2):
        engine.silent = True
        eventually(lambda times=times: len(caplog.records) == times)  # type: ignore[misc]
        sender = RecordingSender()
        live.start(request(QUIET), sender)
        sender.client_gone = True
        assert sender.ended.wait(30)
        assert len(caplog.records) == times
        engine.silent = False
        cancelled = {("cancelled", "strict"): times}
        eventually(lambda cancelled=cancelled: registry.of(families.REQUESTS) == cancelled)  # type: ignore[misc]
    live.close()
    assert {record.message.partition(";")[0] for record in caplog.records} == {"the metrics could not be published"}
