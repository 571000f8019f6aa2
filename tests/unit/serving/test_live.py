"""Each request is answered to its end exactly once, and a client that goes away frees its place."""

from __future__ import annotations

import time
from typing import Any

import pytest

from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.serving.errors import UnavailableError
from spec_cascade.serving.live import HEARTBEAT_SECONDS, LiveRequests
from tests.unit.serving.recording_sender import RecordingSender, eventually, request, serving
from tests.unit.serving.scripted import (
    ECHO,
    FAIL,
    HUSHED,
    QUIET,
    RAISE,
    SLOW,
    ScriptedEngine,
)


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
