"""The canary, against small real servers and none."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade_client import InvalidRequestError
from spec_cascade_client.canary import CanaryError, canary, main
from spec_cascade_client.commands import register
from tests.unit.client.wire_servers import Drop, Fail, HttpServer, Pause, Refuse, Send, chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.client.wire_servers import Record, Step

ANSWER = Send(chunk(0, "!", [1], [0], ["!"], finish_reason=["length"], num_output_tokens=[1]))


@pytest.fixture
def serve() -> Iterator[Callable[..., Record]]:
    servers: list[HttpServer] = []

    def start(*script: Step) -> Record:
        servers.append(HttpServer(list(script)))
        return servers[-1].record

    yield start
    for server in servers:
        server.stop()


def test_an_answer_is_one_line_and_status_0(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = serve(ANSWER)
    assert main([record.url, "--deadline", "5"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("canary: ok: a token in ")
    assert (out.count("\n"), err) == (1, "")
    assert record.paths == ["/v2/models/ensemble/generate"]
    assert record.requests[0]["max_tokens"] == [1]
    assert record.requests[0]["timeout_ms"] == [5000]


def test_a_full_server_is_alive(serve: Any) -> None:
    record = serve(Refuse("in ensemble 'ensemble', UNAVAILABLE: too many requests wait: 16; send it again later"))
    assert canary(record.url).startswith("busy, ")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Refuse("Stub process 'cascade_0_0' is not healthy."), "not healthy"),
        (
            Refuse("in ensemble 'ensemble', UNAVAILABLE: the engine is shutting down"),
            "^the engine is shutting",
        ),
        (Fail("generate expects model to produce exactly 1 response"), "exactly 1"),
        (Send(chunk(0, "", [], [], [], finish_reason=["timeout"])), "finish_reason = 'timeout'"),
        (Drop(), "cannot connect to http://127.0.0.1"),
    ],
)
def test_what_is_not_an_answer_fails(serve: Any, step: Step, message: str) -> None:
    with pytest.raises(CanaryError, match=message):
        canary(serve(step).url)


def test_silence_fails_at_the_deadline(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    record = serve(Pause(10))
    start = time.monotonic()
    assert main([record.url, "--deadline", "0.5"]) == 1
    assert 0.5 <= time.monotonic() - start < 8
    err = capsys.readouterr().err
    assert err.startswith("canary: ")
    assert err.count("\n") == 1


def test_a_server_that_sends_byte_by_byte_fails_at_the_deadline() -> None:
    """Each wait is short; the whole is not."""

    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 4:
                connection.send(bytes([byte]))
                time.sleep(0.1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=drip, args=(listener,))
        server.start()
        start = time.monotonic()
        with pytest.raises(CanaryError, match=r"no answer from http://127\.0\.0\.1:\d+ within 0\.3 s"):
            canary(f"http://127.0.0.1:{listener.getsockname()[1]}", deadline=0.3)
        assert time.monotonic() - start < 4
        server.join()


def test_nobody_there_fails_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["http://127.0.0.1:1"]) == 1
    assert "cannot connect to http://127.0.0.1:1: Connection refused" in capsys.readouterr().err


def test_a_proxy_of_the_environment_is_not_asked(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert canary(serve(ANSWER).url).startswith("ok")


@pytest.mark.parametrize("deadline", [0, -1, float("nan"), float("inf")])
def test_a_deadline_is_seconds(deadline: float) -> None:
    with pytest.raises(InvalidRequestError, match="deadline"):
        canary(deadline=deadline)


def test_it_asks_over_http() -> None:
    with pytest.raises(InvalidRequestError, match="over http"):
        canary("grpc://127.0.0.1:8001")


def test_the_verb_does_the_same(serve: Any) -> None:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    alive = CliRunner().invoke(app, ["canary", serve(ANSWER).url])
    assert (alive.exit_code, alive.stdout.count("\n")) == (0, 1)
    dead = CliRunner().invoke(app, ["canary", "http://127.0.0.1:1"])
    assert (dead.exit_code, dead.stderr.count("\n")) == (1, 1)


def test_the_module_runs_without_the_command_lines_libraries(serve: Any) -> None:
    blocked = "import sys; sys.modules.update(typer=None, rich=None)"
    script = f"{blocked}; from spec_cascade_client.canary import main; sys.exit(main([{serve(ANSWER).url!r}]))"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stdout[:10]) == (0, "canary: ok"), ended.stderr
