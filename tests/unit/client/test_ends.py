"""How a request ends: whole, given up, or with its client; over both protocols, by both clients."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

from spec_cascade_client import AsyncClient, InvalidRequestError, Retry, UnavailableError, grpc_wire
from spec_cascade_client.http_wire import EventDecoder
from tests.unit.client.wire_servers import Drop, Fail, Pause, Refuse, Send, chunk

FIRST = Send(chunk(0, " Die", [1], [0], [" Die"]))
WHOLE = Send(chunk(0, " Die", [1], [0], [" Die"], finish_reason=["stop"]))
FULL = Refuse("UNAVAILABLE: the queue is full")


@pytest.fixture
def patient(monkeypatch):
    """However slow the machine: the end of a call is waited for."""
    monkeypatch.setattr(grpc_wire, "LINGER", 30.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("protocol", ["grpc"])
@pytest.mark.parametrize("final", [True, False])
def test_a_grpc_call_that_brought_all_its_output_is_not_cancelled(serve, connect, final):
    """Triton can die of it."""
    record = serve(Send(WHOLE.outputs, final=final), Pause(0.3))
    with connect(record.url) as client, client.stream("Why?") as stream:
        assert next(stream).finish_reason == "stop"
    assert record.over.wait(5)
    assert not record.client_gone.is_set()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("protocol", ["grpc"])
def test_nor_is_it_when_the_whole_of_it_was_read(serve, connect):
    record = serve(WHOLE, Pause(0.3))
    with connect(record.url) as client:
        assert client.generate("Why?").text == " Die"
    assert record.over.wait(5)
    assert not record.client_gone.is_set()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("protocol", ["grpc"])
def test_nor_is_one_that_brought_an_error(serve, connect):
    record = serve(Refuse("alpha = 7 is not allowed: must be in [0, 1]"), Pause(0.3))
    with connect(record.url) as client, pytest.raises(InvalidRequestError):
        client.generate("Why?")
    assert record.over.wait(5)
    assert not record.client_gone.is_set()


@pytest.mark.parametrize("protocol", ["grpc"])
def test_a_call_that_does_not_end_after_its_output_is_cancelled_in_the_end(serve, connect, monkeypatch):
    monkeypatch.setattr(grpc_wire, "LINGER", 0.1)
    record = serve(WHOLE, Pause(60))
    with connect(record.url) as client:
        assert client.generate("Why?").text == " Die"
        assert record.client_gone.wait(5)


@pytest.mark.parametrize("protocol", ["http"])
@pytest.mark.parametrize("after", [Drop(), Fail("the engine fell over"), Pause(30)])
def test_what_comes_after_the_last_chunk_takes_nothing_back(serve, connect, after):
    record = serve(WHOLE, after)
    with connect(record.url, idle_timeout=0.5) as client:
        assert client.stream("Why?").result().text == " Die"


def test_closing_the_client_ends_its_streams_and_takes_no_more(serve, connect):
    record = serve(FIRST, Pause(60))
    with connect(record.url) as client:
        stream = client.stream("Why?")
        next(stream)
        client.close()
        with pytest.raises(UnavailableError):
            next(stream)
        assert record.client_gone.wait(5)
        with pytest.raises(UnavailableError, match="the client is closed"):
            client.generate("Why?")
        client.close()
    assert len(record.requests) == 1


def test_closing_the_client_wakes_whoever_waits(serve, connect):
    record = serve(FIRST, Pause(60))
    with connect(record.url) as client:
        stream = client.stream("Why?")
        next(stream)
        timer = threading.Timer(0.3, client.close)
        timer.start()
        with pytest.raises(UnavailableError):
            next(stream)
        timer.join()
        assert record.client_gone.wait(5)


def test_closing_ends_the_pause_of_asyncio_before_another_attempt(serve):
    record = serve(FULL)

    async def ask():
        retry = Retry(attempts=2, pause=60, longest_pause=60)
        async with AsyncClient(record.url, retry=retry) as client:
            stream = client.stream("Why?")
            asyncio.get_running_loop().call_later(0.3, stream.close)
            return await asyncio.wait_for(anext(stream, None), 10)

    assert asyncio.run(ask()) is None
    assert len(record.requests) == 1


def test_an_asyncio_stream_may_be_dropped_in_another_thread(serve):
    """Where the loop sleeps and would see no cancellation that is not said in its own thread."""
    record = serve(FIRST, Pause(60))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def wait(work):
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    async def begin(client):
        stream = client.stream("Why?")
        await anext(stream)
        return [stream]

    try:
        client = AsyncClient(record.url)
        streams = wait(begin(client))
        wait(asyncio.sleep(0.1))
        streams.clear()
        gc.collect()
        assert record.client_gone.wait(5)
        wait(client.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize(
    ("received", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata:b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b": keep alive\n\ndata: a\n: still there\ndata: b\n\n:\n\n", [b"a\nb"]),
        (b"event: x\nid: 7\ndata\ndata:  a\n\n", [b"\n a"]),
        ("data: 字\n\n".encode(), ["字".encode()]),
        (b"data: a\n\ndata: cut o", [b"a"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
def test_events_are_found_wherever_the_bytes_are_cut(received, events, size):
    decoder = EventDecoder()
    parts = [received[i : i + size] for i in range(0, len(received), size)]
    assert [event for part in parts for event in decoder.feed(part)] == events
