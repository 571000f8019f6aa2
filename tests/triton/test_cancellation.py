"""A client that goes away frees its place, over both protocols, whatever the engine is doing; and errors mid-stream."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.triton.clients import TIMEOUT, disconnect, grpc_stream, open_post, post, tensor
from tests.triton.conftest import eventually
from tests.unit.serving.scripted import ECHO, FAIL, HUSHED, QUIET, RAISE, SLOW

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.triton.conftest import ScriptedServer

PLACES = 6
FREED_WITHIN_SECONDS = 5.0
"""Half a second on an idle machine; none of these outputs would end by itself."""


@pytest.fixture(autouse=True)
def _all_places_free(scripted_server: ScriptedServer) -> Iterator[None]:
    """Each test begins and ends with an engine that holds nothing, behind a server that answers."""
    assert scripted_server.counts()["live"] == 0
    yield
    eventually(lambda: scripted_server.counts()["live"] == 0)
    assert post(scripted_server.server, body(ECHO, max_tokens=3)).status == 200
    eventually(lambda: scripted_server.counts()["live"] == 0)


def body(seed: int, **fields: Any) -> dict[str, Any]:
    return {"text_input": "abcdef", "seed": seed, "max_tokens": 1000, **fields}


def send(scripted_server: ScriptedServer, fields: dict[str, Any], path: str) -> HTTPConnection:
    """Send a request and read nothing."""
    connection = HTTPConnection(urlsplit(scripted_server.server.http_url).netloc, timeout=TIMEOUT)
    connection.request("POST", f"/v2/models/{path}", json.dumps(fields))
    return connection


@pytest.mark.parametrize("seed", [HUSHED, SLOW])
@pytest.mark.parametrize("model", ["ensemble", "cascade"])
def test_an_http_client_that_disconnects_frees_its_place(
    scripted_server: ScriptedServer, seed: int, model: str
) -> None:
    before = scripted_server.counts()["cancelled"]
    fields = {"input_ids": [1, 2], "seed": seed, "max_tokens": 1000} if model == "cascade" else body(seed)
    connection, response = open_post(scripted_server.server, {**fields, "stream": True}, model)
    assert response.readline().startswith(b"data: ")
    assert scripted_server.counts()["live"] == 1
    disconnect(connection, response)
    eventually(lambda: scripted_server.counts()["live"] == 0, FREED_WITHIN_SECONDS)
    assert scripted_server.counts()["cancelled"] == before + 1


def test_the_server_does_not_see_an_http_client_leave_before_its_answer_begins(scripted_server: ScriptedServer) -> None:
    """It does not read a connection between request and response; the place is free when the output is complete."""
    connection = send(scripted_server, body(SLOW, max_tokens=60), "ensemble/generate")
    eventually(lambda: scripted_server.counts()["live"] == 1)
    connection.close()
    time.sleep(0.5)
    assert scripted_server.counts()["live"] == 1
    eventually(lambda: scripted_server.counts()["live"] == 0, 20)


@pytest.mark.parametrize("seed", [QUIET, HUSHED, SLOW])
@pytest.mark.parametrize("stream", [False, True])
def test_a_grpc_client_that_cancels_frees_its_place(scripted_server: ScriptedServer, seed: int, stream: bool) -> None:
    before = scripted_server.counts()["cancelled"]
    client = grpcclient.InferenceServerClient(scripted_server.server.grpc_url.removeprefix("grpc://"))
    answers: list[Any] = []
    client.start_stream(lambda result, error: answers.append((result, error)))
    client.async_stream_infer("ensemble", [tensor(*item) for item in body(seed, stream=stream).items()])
    eventually(lambda: scripted_server.counts()["live"] == 1)
    if stream and seed != QUIET:
        eventually(lambda: any(result is not None for result, _ in answers))
    else:
        time.sleep(0.2)
    client.stop_stream(cancel_requests=True)
    client.close()
    eventually(lambda: scripted_server.counts()["live"] == 0, FREED_WITHIN_SECONDS)
    assert scripted_server.counts()["cancelled"] == before + 1
    assert any(result is not None for result, _ in answers) == (stream and seed != QUIET)


def test_heartbeats_do_not_reach_the_client(scripted_server: ScriptedServer) -> None:
    """Twenty slow rounds take four heartbeats; one response must still come, or all of them."""
    fields = body(SLOW, max_tokens=20)
    answer = post(scripted_server.server, fields)
    assert answer.status == 200
    assert len(answer.json["token_ids"]) == 20
    events = post(scripted_server.server, {**fields, "stream": True}, stream=True).events
    assert [event["response_index"] for event in events] == list(range(20))
    assert len(list(grpc_stream(scripted_server.server, fields))) == 1


def test_a_full_engine_refuses_with_unavailable(scripted_server: ScriptedServer) -> None:
    waiting = [open_post(scripted_server.server, body(HUSHED, stream=True)) for _ in range(PLACES)]
    eventually(lambda: scripted_server.counts()["live"] == PLACES)
    try:
        answer = post(scripted_server.server, body(ECHO))
        assert answer.status == 400  # the generate endpoints know one status for all that a model refuses
        assert "too many requests wait" in answer.json["error"]
        with pytest.raises(InferenceServerException, match="UNAVAILABLE: too many requests wait"):
            list(grpc_stream(scripted_server.server, body(ECHO)))
    finally:
        for connection, response in waiting:
            disconnect(connection, response)


def test_a_failure_mid_stream_comes_after_what_was_written(scripted_server: ScriptedServer) -> None:
    answer = post(scripted_server.server, body(FAIL, stream=True), stream=True)
    assert answer.status == 200
    assert [set(event) & {"token_ids", "error"} for event in answer.events] == [{"token_ids"}, {"error"}]
    assert answer.events[-1]["error"].endswith("the GPU is on fire")
    with pytest.raises(InferenceServerException, match="INTERNAL: the GPU is on fire"):
        list(grpc_stream(scripted_server.server, body(FAIL, stream=True)))


@pytest.mark.parametrize("stream", [False, True])
def test_a_defect_of_the_engine_tells_the_client_nothing_of_the_server(
    scripted_server: ScriptedServer, stream: bool
) -> None:
    answer = post(scripted_server.server, body(RAISE, stream=stream), stream=True)
    assert answer.events[-1]["error"].endswith("the server failed; see its log")
    assert "secret" not in answer.body


def test_clients_that_come_and_go_leave_the_engine_free(scripted_server: ScriptedServer) -> None:
    """Disconnects at every moment of a stream, several at a time."""

    def come_and_go(i: int) -> None:
        for k in range(6):
            # A server with no place left may end the connection in mid-answer.
            with suppress(OSError, HTTPException):
                connection, response = open_post(scripted_server.server, body(SLOW, stream=True))
                if response.status == 200:
                    response.read(1 + 97 * ((i + k) % 5))
                time.sleep(0.01 * ((i * k) % 7))
                disconnect(connection, response)

    threads = [threading.Thread(target=come_and_go, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: scripted_server.counts()["live"] == 0, FREED_WITHIN_SECONDS)
