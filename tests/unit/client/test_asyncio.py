"""What only a client in an event loop can get wrong; the rest is asked of both clients alike."""

from __future__ import annotations

import asyncio
import gc
import time

import pytest

from spec_cascade_client import AsyncClient, Retry, UnavailableError
from tests.unit.client.wire_servers import Pause, Refuse, Send, chunk

FIRST = Send(chunk(0, " Die", [1], [0], [" Die"]))
LAST = Send(chunk(1, "!", [2], [0], ["!"], finish_reason=["stop"]), final=True)


def gone(record):
    return asyncio.to_thread(record.client_gone.wait, 5)


def test_many_streams_run_at_a_time_in_one_loop(serve):
    record = serve(FIRST, Pause(1), LAST)

    async def ask():
        async with AsyncClient(record.url) as client:
            return await asyncio.gather(*(client.stream(str(i)).result() for i in range(8)))

    start = time.monotonic()
    assert [result.text for result in asyncio.run(ask())] == [" Die!"] * 8
    assert time.monotonic() - start < 6


@pytest.mark.parametrize("script", [(FIRST, Pause(20)), (Pause(20),)])
def test_cancelling_the_task_cancels_on_the_server(serve, script):
    record = serve(*script)

    async def ask():
        async with AsyncClient(record.url) as client:
            task = asyncio.create_task(client.stream("Why?").result())
            while not record.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await gone(record)

    asyncio.run(ask())


def test_cancelling_a_task_that_pauses_before_another_attempt_sends_nothing_more(serve):
    record = serve(Refuse("UNAVAILABLE: the queue is full"))

    async def ask():
        async with AsyncClient(record.url, retry=Retry(attempts=2, pause=2, longest_pause=2)) as client:
            task = asyncio.create_task(client.stream("Why?").result())
            while not record.requests:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(ask())
    time.sleep(2.5)
    assert len(record.requests) == 1


def test_closing_in_another_task_ends_the_iteration_quietly(serve):
    record = serve(FIRST, Pause(20))

    async def ask():
        async with AsyncClient(record.url) as client:
            stream = client.stream("Why?")
            assert (await anext(stream)).text == " Die"
            asyncio.get_running_loop().call_later(0.3, stream.close)
            assert [chunk async for chunk in stream] == []
            assert await gone(record)

    asyncio.run(ask())


def test_a_stream_that_is_dropped_cancels_when_it_is_collected(serve):
    record = serve(FIRST, Pause(20))

    async def ask():
        async with AsyncClient(record.url) as client:
            async for _ in client.stream("Why?"):
                break
            gc.collect()
            assert await gone(record)

    asyncio.run(ask())


def test_a_stream_may_outlive_its_client_and_its_loop(serve):
    record = serve(FIRST, Pause(20))

    async def ask():
        async with AsyncClient(record.url) as client:
            stream = client.stream("Why?")
            return await anext(stream), stream

    first, stream = asyncio.run(ask())
    assert first.text == " Die"
    del stream
    assert record.client_gone.wait(5)


def test_closing_the_client_ends_what_runs_and_takes_no_more(serve):
    record = serve(FIRST, Pause(20))

    async def ask():
        client = AsyncClient(record.url)
        stream = client.stream("Why?")
        await anext(stream)
        await client.close()
        await client.close()
        with pytest.raises(UnavailableError):
            await anext(stream)
        with pytest.raises(UnavailableError, match="the client is closed"):
            await client.generate("Why?")
        assert await gone(record)

    asyncio.run(ask())


def test_the_loop_goes_on_while_a_request_waits(serve):
    record = serve(Pause(0.5), FIRST, LAST)
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def ask():
        ticking = asyncio.create_task(tick())
        async with AsyncClient(record.url) as client:
            await client.stream("Why?").result()
        ticking.cancel()

    asyncio.run(ask())
    assert len(ticks) > 5
