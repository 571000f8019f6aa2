"""Servers and proxies that send a little at a time, or nothing: no trickle makes a wait longer than it may be."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from spec_cascade_client import Client, ClientError, DeadlineError, IdleTimeoutError, NoConnectionError, Retry

if TYPE_CHECKING:
    from collections.abc import Iterator

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n"
FOREVER = 30.0
"""Seconds for which a server drips: far more than a client may wait."""


@contextmanager
def dripping(start: bytes, drop: bytes) -> Iterator[str]:
    """A server that answers with a start and then drops, ten a second, until the client goes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=_drip, args=(listener, start, drop))
        server.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.join()


def _drip(listener: socket.socket, start: bytes, drop: bytes) -> None:
    connection, _ = listener.accept()
    end = time.monotonic() + FOREVER
    with connection, suppress(OSError):
        connection.recv(2**16)
        connection.sendall(start)
        while time.monotonic() < end:
            time.sleep(0.1)
            connection.sendall(drop)


@pytest.mark.parametrize(
    ("start", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX-A: ", b"a"),
        (SSE, b"e\r\n: keep-alive\n\n\r\n"),
        (SSE, b"1\r\nd\r\n"),
    ],
    ids=["headers", "comments", "line"],
)
@pytest.mark.parametrize(
    ("limits", "error"), [({"idle_timeout": 0.5}, IdleTimeoutError), ({"deadline": 0.5}, DeadlineError)]
)
def test_a_trickle_without_a_chunk_is_silence(connect, start, drop, limits, error):
    began = time.monotonic()
    with dripping(start, drop) as url, connect(url, **limits) as client, pytest.raises(error):
        client.stream("Why?").result()
    assert 0.4 < time.monotonic() - began < FOREVER / 2


@pytest.mark.parametrize(
    ("limits", "error"), [({"response_timeout": 0.5}, IdleTimeoutError), ({"deadline": 0.5}, DeadlineError)]
)
def test_a_response_that_trickles_in_is_bounded(connect, limits, error):
    began = time.monotonic()
    with dripping(JSON, b" ") as url, connect(url, **limits) as client, pytest.raises(error):
        client.generate("Why?")
    assert 0.4 < time.monotonic() - began < FOREVER / 2


def test_a_deadline_that_passes_while_connecting_is_a_deadline(connect):
    with socket.create_server(("127.0.0.1", 0)) as listener:  # takes the connection, and says nothing of encryption
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with connect(url, retry=Retry(attempts=1)) as client, pytest.raises(DeadlineError):
            client.generate("Why?", deadline=0.4)


def test_the_time_to_connect_bounds_the_handshake(connect):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with (
            connect(url, connect_timeout=0.4, retry=Retry(attempts=1)) as client,
            pytest.raises(NoConnectionError, match="timed out"),
        ):
            client.generate("Why?")


def test_a_proxy_that_holds_the_answer_back_loses_nothing():
    """All chunks in one piece, and the connection closed instead of a length."""
    event = b'data: {"response_index": %d, "text_output": "a", "token_ids": 1, "finish_reason": "%s"}\n\n'
    body = b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + event % (0, b"") + event % (1, b"stop")

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(2**16)
            connection.sendall(body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=answer, args=(listener,))
        server.start()
        with Client(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert client.stream("Why?").result().text == "aa"
        server.join()


@pytest.mark.parametrize("drop", [b"H", b"SSH-2.0-OpenSSH_9\r\n"])
def test_an_answer_that_is_no_http_is_one_line(connect, drop):
    with dripping(drop, b"\n") as url, connect(url, idle_timeout=0.5) as client:
        with pytest.raises(ClientError) as caught:
            client.stream("Why?").result()
        assert "\n" not in str(caught.value)
