"""Each request is answered to its end exactly once, and a client that goes away frees its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.rules import parse_rule
from spec_cascade.serving import metric_families as families
from spec_cascade.serving.errors import UnavailableError
from spec_cascade.serving.live import HEARTBEAT_SECONDS, WATCH_SECONDS, LiveRequests
from spec_cascade.serving.parse import CascadeRequest
from tests.unit.serving.recording_registry import RecordingRegistry
from tests.unit.serving.scripted import (
    ECHO,
    FAIL,
    HUSHED,
    QUIET,
    RAISE,
    SLOW,
    ScriptedEngine,
    ScriptedGeneration,
)


class RecordingSender:
    """Implements `live.Sender`; using it after its end is an error, as it is with the server's."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.ended = threading.Event()
        self.client_gone = False

    def send(self, values: Any) -> None:
        assert not self.ended.is_set()
        self.sent.append(dict(values))

    def fail(self, error: Exception) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()

    def finish(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def is_cancelled(self) -> bool:
        assert not self.ended.is_set()
        return self.client_gone

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [values for values in self.sent if "output_ids" in values]


def request(seed: int, *, tokens: int = 5, stream: bool = True, token: str = "", **options: Any) -> CascadeRequest:
    sampling = SamplingParams(seed=seed, max_tokens=tokens)
    generation = GenerationRequest(prompt_ids=(5, 6, 7), sampling=sampling, **options)
    return CascadeRequest(
        generation=generation, stream=stream, return_token_sources=False, prompt_text="", request_token=token
    )


@contextmanager
def serving(registry: RecordingRegistry | None = None) -> Iterator[tuple[ScriptedEngine, LiveRequests]]:
    engine = ScriptedEngine()
    live = LiveRequests(engine, registry)
    try:
        yield engine, live
    finally:
        live.close()


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_each_round_is_sent_and_then_the_end() -> None:
    with serving() as (engine, live):
        sender = RecordingSender()
        live.start(request(ECHO), sender)
        assert sender.ended.wait(30)
        assert [list(values["output_ids"])[-1] for values in sender.rounds] == [5, 6, 7, 5, 6]
        assert sender.error is None
        eventually(lambda: engine.live == 0)


def test_without_streaming_one_response_is_sent() -> None:
    with serving() as (_, live):
        sender = RecordingSender()
        live.start(request(ECHO, stream=False), sender)
        assert sender.ended.wait(30)
        assert len(sender.sent) == 1


def test_what_the_engine_refuses_reaches_the_caller_and_not_the_sender() -> None:
    with serving() as (engine, live):
        sender = RecordingSender()
        with pytest.raises(ConfigError, match="draft_length"):
            live.start(request(ECHO, draft_length=99), sender)
        senders = [RecordingSender() for _ in range(6)]
        for other in senders:
            live.start(request(QUIET), other)
        with pytest.raises(QueueFullError):
            live.start(request(ECHO), sender)
        assert not sender.ended.is_set()
        assert engine.live == 6


@pytest.mark.parametrize("seed", [QUIET, HUSHED, SLOW])
def test_a_client_that_goes_away_frees_its_place_also_while_the_engine_is_quiet(seed: int) -> None:
    with serving() as (engine, live):
        sender = RecordingSender()
        live.start(request(seed, tokens=1000), sender)
        time.sleep(0.1)
        sender.client_gone = True
        assert sender.ended.wait(30)
        assert sender.error is None
        eventually(lambda: engine.live == 0)
        assert engine.cancelled == 1


def test_a_request_with_a_token_gets_heartbeats_and_can_be_cancelled_by_it() -> None:
    with serving() as (engine, live):
        sender, other = RecordingSender(), RecordingSender()
        live.start(request(QUIET, token="one", stream=False), sender)
        live.start(request(QUIET, token="two", stream=False), other)
        eventually(lambda: sender.sent[:2] == [{"request_token": "one"}] * 2)
        live.cancel("nobody")
        live.cancel("one")
        assert sender.ended.wait(30)
        assert not other.ended.is_set()
        assert engine.cancelled == 1
        live.cancel("one")


def test_a_request_without_a_token_gets_no_heartbeats() -> None:
    with serving() as (_, live):
        sender = RecordingSender()
        live.start(request(QUIET), sender)
        time.sleep(2 * HEARTBEAT_SECONDS)
        assert sender.sent == []


def test_a_failure_of_the_engine_is_an_error_after_what_was_sent() -> None:
    with serving() as (engine, live):
        sender = RecordingSender()
        live.start(request(FAIL), sender)
        assert sender.ended.wait(30)
        assert len(sender.rounds) == 1
        assert isinstance(sender.error, EngineError)
        assert str(sender.error) == "the GPU is on fire"
        eventually(lambda: engine.live == 0)


def test_with_a_token_an_error_comes_as_a_response_in_its_turn() -> None:
    with serving() as (_, live):
        sender = RecordingSender()
        live.start(request(FAIL, token="one"), sender)
        assert sender.ended.wait(30)
        assert sender.error is None
        assert [values.get("error_message") for values in sender.sent] == [None, "the GPU is on fire"]
        assert sender.sent[-1]["error_status"] == "INTERNAL"


def test_a_defect_of_the_engine_is_an_error_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as (engine, live):
        sender = RecordingSender()
        live.start(request(RAISE), sender)
        assert sender.ended.wait(30)
        assert str(sender.error) == "the server failed; see its log"
        assert "a secret" in caplog.text
        eventually(lambda: engine.live == 0)


def test_one_sender_that_cannot_be_asked_does_not_end_the_watch_over_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(RecordingSender):
        def is_cancelled(self) -> bool:
            raise OSError("gone")

    with serving() as (_, live):
        broken, sound = Broken(), RecordingSender()
        live.start(request(QUIET), broken)
        live.start(request(QUIET), sound)
        sound.client_gone = True
        assert sound.ended.wait(30)
        assert not broken.ended.is_set()


def test_closing_answers_what_is_live_and_refuses_what_comes_later() -> None:
    engine = ScriptedEngine()
    live = LiveRequests(engine)
    senders = [RecordingSender() for _ in range(4)]
    for sender in senders:
        live.start(request(QUIET), sender)
    live.close()
    assert all(isinstance(sender.error, UnavailableError) for sender in senders)
    with pytest.raises(UnavailableError, match="shutting down"):
        live.start(request(ECHO), RecordingSender())


def test_a_request_is_not_finished_while_the_server_is_asked_about_it() -> None:
    """The server dies of it."""
    overlaps = []

    class SlowToAsk(RecordingSender):
        def is_cancelled(self) -> bool:
            time.sleep(0.08)
            overlaps.append(self.ended.is_set())
            return False

    with serving() as (_, live):
        senders = [SlowToAsk() for _ in range(3)]
        for sender in senders:
            live.start(request(SLOW, tokens=10), sender)
        assert all(sender.ended.wait(30) for sender in senders)
        time.sleep(0.1)
    assert overlaps
    assert not any(overlaps)


def test_many_requests_at_a_time_all_end() -> None:
    with serving() as (engine, live):
        senders = []
        for i in range(60):
            eventually(lambda: engine.live < 6)
            senders.append(RecordingSender())
            live.start(request(ECHO, tokens=20, token=f"t{i}"), senders[-1])
        assert all(sender.ended.wait(30) for sender in senders)
        assert all(len(sender.rounds) == 20 for sender in senders)


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


def test_the_end_is_sent_even_where_the_error_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever waits for the end would wait for ever."""

    class Unanswerable(RecordingSender):
        def send(self, values: Any) -> None:
            raise RuntimeError("the pipe is broken")

    with serving() as (engine, live):
        sender = Unanswerable()
        live.start(request(ECHO, token="one"), sender)
        assert sender.ended.wait(30)
        eventually(lambda: engine.live == 0)
    assert "the end of a request could not be sent as it was" in caplog.text


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
