"""Health: not ready before a round has run, and the canary sees what the server's own readiness does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from http.client import HTTPConnection
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psutil
import pytest

from spec_cascade.serving import server as server_module
from spec_cascade.serving.server import TritonServer
from spec_cascade_client import Client, ClientError, Options
from spec_cascade_client.canary import CanaryError, canary
from tests.triton.clients import TIMEOUT, grpc_stream
from tests.triton.conftest import (
    START_SECONDS,
    ScriptedServer,
    eventually,
    made,
    processes_of_group,
    scripted_repository,
)
from tests.unit.serving import scripted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEADLINE_SECONDS = 3.0
IDLE_SECONDS = 6.0
PLACES = 6


def is_ready(server: TritonServer) -> bool:
    connection = HTTPConnection(urlsplit(server.http_url).netloc, timeout=TIMEOUT)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def stub_of(server: TritonServer, model: str) -> int:
    """The process id of a Python model."""
    assert server.pid is not None
    found = [pid for pid in processes_of_group(server.pid) if f"/{model}/" in " ".join(psutil.Process(pid).cmdline())]
    return found[0]


@pytest.fixture
def _soon_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with a dead model hangs when it is stopped, for as long as it may."""
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 1)
    monkeypatch.setattr(server_module, "_KILL_AFTER_SECONDS", 4)


def failure_of(call: Callable[[], object]) -> Exception | None:
    """The error that the call raises."""
    try:
        call()
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("model", ["ensemble", "ensemble_unary"])
def test_the_canary_of_a_server_that_answers_passes(server: TritonServer, model: str) -> None:
    assert canary(server.http_url, model=model, deadline=30).startswith("ok: ")


def test_the_canary_of_a_server_that_is_full_passes(scripted_server: ScriptedServer) -> None:
    silent = {"text_input": "abc", "seed": scripted.HUSHED, "max_tokens": 99, "stream": True}
    with ExitStack() as stack:
        for _ in range(PLACES):
            stream = grpc_stream(scripted_server.server, silent)
            stack.callback(stream.close)
            next(stream)
        assert canary(scripted_server.server.http_url, deadline=10).startswith("busy, ")
    eventually(lambda: scripted_server.counts()["live"] == 0)


@pytest.mark.usefixtures("_soon_ended")
@pytest.mark.parametrize(
    "model", ["cascade", *(pytest.param(name, marks=pytest.mark.slow) for name in ("preprocessing", "postprocessing"))]
)
def test_a_killed_model_fails_the_canary_and_leaves_nothing_behind(tiny_engine_dir: Path, model: str) -> None:
    before = made()
    with TritonServer(tiny_engine_dir) as server:
        canary(server.http_url, deadline=30)
        group = server.pid
        assert group is not None
        os.kill(stub_of(server, model), signal.SIGKILL)
        start = time.monotonic()
        with pytest.raises(CanaryError):
            canary(server.http_url, deadline=DEADLINE_SECONDS)
        assert time.monotonic() - start < DEADLINE_SECONDS + 10
        assert is_ready(server)  # what Triton says; the reason why there is a canary
        command = [sys.executable, "-m", "spec_cascade_client.canary", server.http_url, "--deadline", "3"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
        assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    eventually(lambda: not processes_of_group(group), 30)
    assert made() == before


@pytest.mark.usefixtures("_soon_ended")
def test_a_model_killed_in_mid_stream_ends_clients_and_server_and_the_next_start_is_clean(
    tiny_engine_dir: Path, tmp_path: Path
) -> None:
    before = made()
    hushed = Options(seed=scripted.HUSHED, max_tokens=99)
    server = TritonServer(tiny_engine_dir, model_repository=scripted_repository(tmp_path))
    server.start(START_SECONDS)
    try:
        group = server.pid
        assert group is not None
        with ExitStack() as stack:
            urls = (server.http_url, server.grpc_url)
            clients = [stack.enter_context(Client(url, idle_timeout=IDLE_SECONDS)) for url in urls]
            streams = [stack.enter_context(client.stream("abc", hushed)) for client in clients]
            for stream in streams:
                next(stream)
            os.kill(stub_of(server, "cascade"), signal.SIGKILL)
            # Triton leaves a stream whose model died open: it is for the client to give up.
            calls = [partial(next, stream) for stream in streams]
            calls += [partial(client.generate, "abc", hushed) for client in clients]
            pool = stack.enter_context(ThreadPoolExecutor(len(calls)))
            errors = list(pool.map(failure_of, calls))
            assert all(isinstance(error, ClientError) for error in errors), errors
            with pytest.raises(CanaryError):
                canary(server.http_url, deadline=DEADLINE_SECONDS)
            server.stop()
    finally:
        server.stop()
    eventually(lambda: not processes_of_group(group), 30)
    assert made() == before
    ports = {f"{url.scheme}_port": url.port or 0 for url in map(urlsplit, urls)}
    with TritonServer(tiny_engine_dir, **ports) as restarted:
        assert (restarted.http_url, restarted.grpc_url) == urls
        assert canary(restarted.http_url, deadline=30).startswith("ok: ")
    assert made() == before


def test_a_server_is_not_ready_before_its_engine_has_run_a_round(
    tiny_engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold, state = tmp_path / "hold", tmp_path / "state.json"
    monkeypatch.setenv(scripted.HOLD_VARIABLE, str(hold))
    monkeypatch.setenv(scripted.STATE_VARIABLE, str(state))
    server = TritonServer(tiny_engine_dir, model_repository=scripted_repository(tmp_path))
    starting = ScriptedServer(server, state, hold)
    with ThreadPoolExecutor(1) as pool:
        try:
            with starting.held():
                started = pool.submit(server.start, START_SECONDS)
                eventually(lambda: starting.counts()["live"] == 1, START_SECONDS)
                time.sleep(1)
                assert not is_ready(server)
                assert not started.done()
            started.result()
            assert is_ready(server)
            assert starting.counts() == {"live": 0, "cancelled": 0}
        finally:
            server.stop()
