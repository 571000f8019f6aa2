"""What a client says of a server that refuses, fails, falls silent or is not there; over both protocols."""

from __future__ import annotations

import time

import grpc
import pytest

from spec_cascade_client import (
    Client,
    IdleTimeoutError,
    InvalidRequestError,
    NoConnectionError,
    ServerError,
    UnavailableError,
)
from tests.unit.client.wire_servers import Abort, Drop, Fail, GrpcServer, Pause, Refuse, Send, chunk

FIRST = chunk(0, " Die", [1], [0], [" Die"])
LAST = chunk(2, "", [], [], [], finish_reason=["length"])


@pytest.mark.parametrize(
    ("message", "error", "words"),
    [
        ("a = 7 is not allowed:\nmust be at most 1", InvalidRequestError, "a = 7 is not allowed: must be at most 1"),
        ("Request for unknown model: 'x' is not found", InvalidRequestError, None),
        ("in ensemble 'ensemble', UNAVAILABLE: the queue is full", UnavailableError, "the queue is full"),
        ("INTERNAL: the engine failed", ServerError, "the engine failed"),
    ],
)
def test_a_refusal_says_who_is_to_blame_in_the_words_of_the_server(serve, message, error, words, connect):
    record = serve(Refuse(message))
    with connect(record.url) as client:
        for ask in (client.generate, lambda prompt: client.stream(prompt).result()):
            with pytest.raises(error) as caught:
                ask("Why?")
            assert str(caught.value) == (words or message)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, InvalidRequestError),
        (grpc.StatusCode.UNIMPLEMENTED, InvalidRequestError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, UnavailableError),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_who_stands_in_front_of_the_server_can_refuse_with_a_status(code, error):
    server = GrpcServer([Abort(code, "not today")])
    try:
        with Client(server.record.url) as client, pytest.raises(error, match="not today"):
            client.generate("Why?")
    finally:
        server.stop()


def test_an_error_inside_a_successful_reply_is_a_failure(serve, connect):
    record = serve(Fail("the engine fell over"))
    with connect(record.url) as client:
        with pytest.raises(ServerError, match="the engine fell over"):
            client.generate("Why?")
        with pytest.raises(ServerError, match="the engine fell over"):
            client.stream("Why?").result()


def test_an_error_in_mid_stream_has_the_type_that_its_text_names(serve, connect):
    record = serve(Send(FIRST), Fail("UNAVAILABLE: the engine is closing"))
    with connect(record.url) as client, pytest.raises(UnavailableError, match=r"^the engine is closing$"):
        client.stream("Why?").result()


def test_an_error_in_mid_stream_comes_after_the_chunks_before_it(serve, connect):
    record = serve(Send(FIRST), Fail("the engine fell over"))
    seen = []
    with connect(record.url) as client, pytest.raises(ServerError, match="the engine fell over"):
        _collect(client.stream("Why?"), seen)
    assert seen == [" Die"]


def test_silence_between_chunks_is_an_error_and_cancels(serve, connect):
    record = serve(Send(FIRST), Pause(20))
    with connect(record.url, idle_timeout=1.5) as client:
        stream = client.stream("Why?")
        assert next(stream).text == " Die"
        start = time.monotonic()
        with pytest.raises(IdleTimeoutError, match=r"sent nothing for 1\.5 s"):
            next(stream)
        assert time.monotonic() - start < 10
        assert record.client_gone.wait(5)


def test_silence_before_the_one_response_is_an_error(serve, connect):
    record = serve(Pause(20))
    with connect(record.url, response_timeout=1) as client, pytest.raises(IdleTimeoutError):
        client.generate("Why?")
    assert record.client_gone.wait(5)


def test_pauses_shorter_than_the_timeout_do_not_add_up(serve, connect):
    steps = [step for i in range(4) for step in (Pause(0.4), Send(FIRST | {"response_index": [i]}))]
    record = serve(*steps, Send(LAST | {"response_index": [4]}, final=True))
    with connect(record.url, idle_timeout=1.5) as client:
        assert client.stream("Why?").result().text == " Die" * 4


def test_a_broken_connection_is_an_error_after_the_chunks_before_it(serve, connect):
    record = serve(Send(FIRST), Drop())
    seen = []
    with connect(record.url) as client, pytest.raises(UnavailableError):
        _collect(client.stream("Why?"), seen)
    assert seen == [" Die"]


def test_a_stream_that_ends_early_is_an_error(serve, connect):
    record = serve(Send(FIRST, final=True))
    with connect(record.url) as client, pytest.raises(ServerError, match="before the output was complete"):
        client.stream("Why?").result()


def test_a_response_out_of_turn_is_an_error(serve, connect):
    record = serve(Send(FIRST), Send(LAST, final=True))
    with connect(record.url) as client, pytest.raises(ServerError, match="response 2 arrived where 1 was due"):
        client.stream("Why?").result()


@pytest.mark.parametrize(
    "broken",
    [
        {"token_sources": [9]},
        {"finish_reason": ["stop"], "cascade_stats": ["{"]},
        {"finish_reason": ["stop"], "cascade_stats": ["[1]"]},
    ],
)
def test_a_response_that_breaks_the_contract_is_an_error(serve, broken, connect):
    record = serve(Send(FIRST | broken, final=True))
    with connect(record.url) as client, pytest.raises(ServerError, match="break"):
        client.stream("Why?").result()


def test_a_port_nobody_listens_on_is_no_connection(protocol, connect):
    url = f"{protocol}://127.0.0.1:1"
    with connect(url) as client, pytest.raises(NoConnectionError, match=f"cannot connect to {url}: Connection refused"):
        client.generate("Why?")


def test_a_host_that_does_not_exist_is_no_connection(protocol, connect):
    with (
        connect(f"{protocol}://nowhere.invalid") as client,
        pytest.raises(NoConnectionError, match=r"nowhere\.invalid"),
    ):
        client.generate("Why?")


def _collect(stream, seen):
    for item in stream:
        seen.append(item.text)
