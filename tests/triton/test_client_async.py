"""The asyncio client against a real server, and what both clients do when the server is full."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

import pytest

from spec_cascade_client import (
    AsyncClient,
    Client,
    DeadlineError,
    History,
    IdleTimeoutError,
    Options,
    PromptTooLongError,
    Retry,
    ServerError,
)
from tests.triton.conftest import eventually
from tests.triton.test_client_library import OPTIONS, PLACES, PROMPT, PROTOCOLS, url_of
from tests.unit.serving.scripted import ECHO, FAIL, HUSHED, SLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.serving.server import TritonServer
    from tests.triton.conftest import ScriptedServer

FREED_WITHIN_SECONDS = 5.0
CHAT = [{"role": "user", "content": "the cat"}]


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def scripted_url(scripted_server: ScriptedServer, protocol: str) -> Iterator[str]:
    """The scripted server, which holds nothing before the test and after it."""
    eventually(lambda: scripted_server.counts()["live"] == 0)
    yield url_of(scripted_server.server, protocol)
    eventually(lambda: scripted_server.counts()["live"] == 0)


def test_both_clients_get_the_same_from_every_call(server: TritonServer, protocol: str) -> None:
    url = url_of(server, protocol)

    async def ask() -> list[object]:
        async with AsyncClient(url) as client, client.stream(PROMPT, OPTIONS) as stream:
            chunks = [chunk async for chunk in stream]
            whole = await stream.result()
            return [chunks, whole, await client.generate(PROMPT, OPTIONS), await client.chat(CHAT, OPTIONS)]

    with Client(url) as client, client.stream(PROMPT, OPTIONS) as stream:
        chunks = list(stream)
        expected = [chunks, stream.result(), client.generate(PROMPT, OPTIONS), client.chat(CHAT, OPTIONS)]
    assert len(chunks) > 1
    assert asyncio.run(ask()) == expected


def test_requests_of_one_loop_share_the_engine(server: TritonServer, protocol: str) -> None:
    async def ask() -> list[str]:
        async with AsyncClient(url_of(server, protocol)) as client:
            streams = [client.stream(PROMPT, OPTIONS) for _ in range(8)]
            return [result.text for result in await asyncio.gather(*(stream.result() for stream in streams))]

    assert len(set(asyncio.run(ask()))) == 1


@pytest.mark.parametrize("how", ["leave", "close", "cancel", "drop"])
@pytest.mark.parametrize("seed", [HUSHED, SLOW])
def test_a_stream_that_is_given_up_frees_its_place(
    scripted_server: ScriptedServer, scripted_url: str, how: str, seed: int
) -> None:
    before = scripted_server.counts()["cancelled"]

    async def ask() -> None:
        async with AsyncClient(scripted_url) as client:
            options = Options(seed=seed, max_tokens=1000)
            if how == "leave":
                async with client.stream("abc", options) as stream:
                    await anext(stream)
            elif how == "close":
                stream = client.stream("abc", options)
                await anext(stream)
                stream.close()
            elif how == "cancel":
                task = asyncio.create_task(client.stream("abc", options).result())
                await asyncio.to_thread(eventually, lambda: scripted_server.counts()["live"] == 1)
                await asyncio.sleep(1)
                task.cancel()
            else:
                async for _ in client.stream("abc", options):
                    break
            freed = scripted_server.counts
            await asyncio.to_thread(eventually, lambda: freed()["live"] == 0, FREED_WITHIN_SECONDS)

    asyncio.run(ask())
    assert scripted_server.counts()["cancelled"] == before + 1


def test_a_client_of_threads_that_leaves_frees_its_place(scripted_server: ScriptedServer, scripted_url: str) -> None:
    before = scripted_server.counts()["cancelled"]
    with Client(scripted_url) as client:
        with client.stream("abc", Options(seed=HUSHED, max_tokens=100)) as stream:
            next(stream)
            assert scripted_server.counts()["live"] == 1
        eventually(lambda: scripted_server.counts()["live"] == 0, FREED_WITHIN_SECONDS)
    assert scripted_server.counts()["cancelled"] == before + 1


def test_silence_a_deadline_and_a_failure_have_their_types(scripted_server: ScriptedServer, scripted_url: str) -> None:
    async def ask() -> None:
        async with AsyncClient(scripted_url, idle_timeout=2) as client:
            for seed, deadline, error in ((HUSHED, None, IdleTimeoutError), (SLOW, 2.0, DeadlineError)):
                stream = client.stream("abc", Options(seed=seed, max_tokens=100), deadline=deadline)
                await anext(stream)
                with pytest.raises(error):
                    await stream.result()
            stream = client.stream("abc", Options(seed=FAIL, max_tokens=100))
            assert (await anext(stream)).index == 0
            with pytest.raises(ServerError, match=r"^the GPU is on fire$"):
                await anext(stream)
            freed = scripted_server.counts
            await asyncio.to_thread(eventually, lambda: freed()["live"] == 0)

    asyncio.run(ask())


def test_a_request_to_a_full_server_waits_for_room(scripted_server: ScriptedServer, scripted_url: str) -> None:
    """Both clients ask a full server; both are served once places are free."""
    retry = Retry(attempts=50, pause=0.05, longest_pause=0.2)
    quick = Options(seed=ECHO, max_tokens=3)

    async def ask() -> int:
        async with AsyncClient(scripted_url, retry=retry) as client:
            return len((await client.generate("abc", quick)).token_ids)

    with Client(scripted_url, retry=retry) as client, ExitStack() as streams:
        for _ in range(PLACES):
            next(streams.enter_context(client.stream("abc", Options(seed=HUSHED, max_tokens=100))))
        timer = threading.Timer(1, streams.close)
        timer.start()
        assert len(client.generate("abc", quick).token_ids) == 3
        timer.join()
    eventually(lambda: scripted_server.counts()["live"] == 0)
    with ExitStack() as streams, Client(scripted_url) as client:
        for _ in range(PLACES):
            next(streams.enter_context(client.stream("abc", Options(seed=HUSHED, max_tokens=100))))
        timer = threading.Timer(1, streams.close)
        timer.start()
        assert asyncio.run(ask()) == 3
        timer.join()


def test_many_loops_worth_of_streams_come_and_go(scripted_server: ScriptedServer, scripted_url: str) -> None:
    """Streams given up at every moment, several at a time, leave the engine free."""

    async def come_and_go(client: AsyncClient, i: int) -> None:
        for k in range(6):
            stream = client.stream("abc", Options(seed=SLOW, max_tokens=1000))
            task = asyncio.create_task(stream.result())
            await asyncio.sleep(0.02 * ((i + k) % 7))
            task.cancel()
            await asyncio.wait({task})

    async def ask() -> None:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(AsyncClient(scripted_url, retry=Retry(attempts=1)))
            await asyncio.gather(*(come_and_go(client, i) for i in range(4)))

    asyncio.run(ask())
    eventually(lambda: scripted_server.counts()["live"] == 0, 5)


def test_a_history_is_cut_to_the_models_window(server: TritonServer, protocol: str) -> None:
    greedy = Options(max_tokens=4, temperature=0, ignore_eos=True)
    history = History("Be brief.")
    with Client(url_of(server, protocol)) as client:
        for i in range(12):
            history.ask(f"question {i}: the cat sat on the mat")
            result = client.chat(history, greedy)
            assert result.statistics.num_prompt_tokens < 256
            history.answer(result.text)
        assert 1 < history.num_turns < 12
        assert history.messages[0] == {"role": "system", "content": "Be brief."}
        assert history.messages[-2]["content"].startswith("question 11")
        with pytest.raises(PromptTooLongError) as caught:
            client.chat([{"role": "user", "content": "the cat " * 200}], greedy)
    assert caught.value.limit == 255
