"""Servers for the client's tests: each test says what the server does, and runs once for each protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade_client import Client
from tests.unit.client.blocking import BlockingClient
from tests.unit.client.wire_servers import GrpcServer, HttpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.client.wire_servers import Record, Step

SERVERS = {"http": HttpServer, "grpc": GrpcServer}


@pytest.fixture(params=["http", "grpc"])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def serve(protocol: str) -> Iterator[Callable[..., Record]]:
    """Start a server that plays the given steps for each request; answers with what it records."""
    servers: list[HttpServer | GrpcServer] = []

    def start(*script: Step) -> Record:
        servers.append(SERVERS[protocol](list(script)))
        return servers[-1].record

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(params=[Client, BlockingClient], ids=["threads", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Any:
    """Both clients, with the same face."""
    return request.param
