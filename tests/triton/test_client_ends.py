"""How requests end against a real server, which can die of a cancellation at the moment a gRPC stream completes."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from spec_cascade_client import AsyncClient, Client, InvalidRequestError, Options
from tests.triton.test_client_library import PROTOCOLS, url_of

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer

CLIENTS = 4
TURNS = 60
"""Of three requests by each client: without the care that is taken, the server dies within a few hundred."""
SHORT = Options(max_tokens=2)
BAD = Options(temperature=-1)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_number_of_short_lived_clients_brings_the_server_down(server: TritonServer, protocol: str) -> None:
    url = url_of(server, protocol)

    def ask(_: int) -> None:
        for _ in range(TURNS):
            with Client(url) as client, client.stream("the cat", SHORT) as stream:
                for chunk in stream:
                    if chunk.finish_reason:
                        break
            with Client(url) as client:
                client.generate("the cat", SHORT)
            with Client(url) as client, pytest.raises(InvalidRequestError):
                client.generate("the cat", BAD)

    with ThreadPoolExecutor(CLIENTS) as threads:
        list(threads.map(ask, range(CLIENTS)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nor_of_clients_in_an_event_loop(server: TritonServer, protocol: str) -> None:
    url = url_of(server, protocol)

    async def ask() -> None:
        for _ in range(TURNS):
            async with AsyncClient(url) as client:
                async for chunk in client.stream("the cat", SHORT):
                    if chunk.finish_reason:
                        break
            async with AsyncClient(url) as client:
                await client.generate("the cat", SHORT)
            async with AsyncClient(url) as client:
                with pytest.raises(InvalidRequestError):
                    await client.generate("the cat", BAD)

    async def ask_all() -> None:
        await asyncio.gather(*(ask() for _ in range(CLIENTS)))

    asyncio.run(ask_all())
