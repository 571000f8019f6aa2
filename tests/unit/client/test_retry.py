"""What is sent again and what is not; over both protocols, by both clients."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from spec_cascade_client import (
    BusyError,
    Client,
    DeadlineError,
    InvalidRequestError,
    NoConnectionError,
    Retry,
    ServerError,
    UnavailableError,
)
from tests.unit.client.conftest import SERVERS
from tests.unit.client.wire_servers import Drop, Early, Fail, Pause, Refuse, Send, chunk

WHOLE = Send(chunk(0, " Die", [1], [0], [" Die"], finish_reason=["stop"]), final=True)
START = Send(chunk(0, " Die", [1], [0], [" Die"]))
FULL = Refuse("UNAVAILABLE: the queue is full")
QUICK = Retry(attempts=4, pause=0.01)


def test_a_full_queue_is_asked_again_until_it_has_room(serve, connect):
    record = serve(Early(3, FULL), WHOLE)
    with connect(record.url, retry=QUICK) as client:
        assert client.generate("Why?").text == " Die"
    assert len(record.requests) == 4
    assert all(sent == record.requests[0] for sent in record.requests)


def test_attempts_are_bounded_and_the_last_failure_is_told(serve, connect):
    record = serve(FULL)
    with connect(record.url, retry=QUICK) as client:
        with pytest.raises(BusyError, match=r"^the queue is full$"):
            client.stream("Why?").result()
        assert len(record.requests) == 4
        with pytest.raises(BusyError):
            client.generate("Why?")
    assert len(record.requests) == 8


def test_one_attempt_is_one_attempt(serve, connect):
    record = serve(FULL)
    with connect(record.url, retry=Retry(attempts=1)) as client, pytest.raises(BusyError):
        client.generate("Why?")
    assert len(record.requests) == 1


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Refuse("alpha = 7 is not allowed: must be in [0, 1]"), InvalidRequestError),
        (Refuse("INTERNAL: the engine failed"), ServerError),
        (Fail("the engine fell over"), ServerError),
        (Drop(), UnavailableError),
    ],
)
def test_what_may_have_run_is_not_sent_again(serve, connect, step, error):
    record = serve(step)
    with connect(record.url, retry=QUICK) as client, pytest.raises(error):
        client.stream("Why?").result()
    assert len(record.requests) == 1


def test_nothing_is_sent_again_after_the_first_chunk(serve, connect):
    record = serve(START, Fail("UNAVAILABLE: the engine is closing"))
    with connect(record.url, retry=QUICK) as client:
        stream = client.stream("Why?")
        assert next(stream).text == " Die"
        with pytest.raises(BusyError):
            next(stream)
    assert len(record.requests) == 1


def test_a_server_that_comes_up_late_is_found(protocol, connect):
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    servers = []
    starting = threading.Timer(0.5, lambda: servers.append(SERVERS[protocol]([WHOLE], port=port)))
    starting.start()
    try:
        retry = Retry(attempts=20, pause=0.2, longest_pause=0.3)
        with connect(f"{protocol}://127.0.0.1:{port}", retry=retry) as client:
            assert client.generate("Why?").text == " Die"
    finally:
        starting.join()
        servers[0].stop()


def test_a_refused_connection_is_tried_as_often_as_is_allowed(protocol, connect):
    retry = Retry(attempts=3, pause=0.2)
    start = time.monotonic()
    with connect(f"{protocol}://127.0.0.1:1", retry=retry) as client, pytest.raises(NoConnectionError, match="refused"):
        client.generate("Why?")
    assert 0.3 <= time.monotonic() - start < 10


def test_closing_ends_the_pause_before_another_attempt(serve):
    record = serve(FULL)
    with Client(record.url, retry=Retry(attempts=2, pause=30, longest_pause=30)) as client:
        stream = client.stream("Why?")
        timer = threading.Timer(0.3, stream.close)
        timer.start()
        start = time.monotonic()
        assert list(stream) == []
        assert time.monotonic() - start < 5
        timer.join()
    assert len(record.requests) == 1


def test_the_deadline_bounds_a_stream_that_is_never_silent_for_long(serve, connect):
    pauses = [step for i in range(100) for step in (Send(chunk(i, "a", [1], [0], ["a"])), Pause(0.1))]
    record = serve(*pauses)
    with connect(record.url, idle_timeout=5) as client:
        start = time.monotonic()
        stream = client.stream("Why?", deadline=0.5)
        with pytest.raises(DeadlineError, match=r"deadline of 0\.5 s"):
            stream.result()
        assert 0.4 < time.monotonic() - start < 6
        assert record.client_gone.wait(5)


def test_the_deadline_bounds_one_response_and_the_server_is_told(serve, connect):
    record = serve(Pause(20))
    with connect(record.url, deadline=1) as client, pytest.raises(DeadlineError):
        client.generate("Why?")
    assert record.client_gone.wait(5)
    assert record.requests[0]["timeout_ms"] == [2000]


def test_no_attempt_is_made_beyond_the_deadline(serve, connect):
    record = serve(FULL)
    retry = Retry(attempts=5, pause=10, longest_pause=10)
    start = time.monotonic()
    with connect(record.url, retry=retry) as client, pytest.raises(BusyError):
        client.generate("Why?", deadline=5)
    assert time.monotonic() - start < 5
    assert len(record.requests) == 1


def test_pauses_double_up_to_the_longest_and_vary():
    retry = Retry(attempts=9, pause=0.1, longest_pause=0.5)
    for failures, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5), (2000, 0.5)):
        pauses = {retry.pause_after(failures) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)


@pytest.mark.parametrize("fields", [{"attempts": 0}, {"attempts": 1.5}, {"pause": 0}, {"longest_pause": float("nan")}])
def test_a_retry_that_means_nothing_is_refused(fields):
    with pytest.raises(InvalidRequestError, match=next(iter(fields))):
        Retry(**fields)


@pytest.mark.parametrize("name", ["connect_timeout", "idle_timeout", "response_timeout", "deadline"])
@pytest.mark.parametrize("seconds", [0, -1, 1e7, float("inf"), 10**400, "soon"])
def test_a_time_that_means_nothing_is_refused(name, seconds):
    with pytest.raises(InvalidRequestError, match=f"{name} = "):
        Client("http://127.0.0.1:1", **{name: seconds})
