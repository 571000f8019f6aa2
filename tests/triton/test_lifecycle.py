"""Start, stop, die: nothing is left running and nothing in shared memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from spec_cascade.errors import ConfigError
from spec_cascade.serving import server as server_module
from spec_cascade.serving.errors import LaunchError
from spec_cascade.serving.model_configs import MODELS, PythonModel
from spec_cascade.serving.server import TritonServer
from tests.triton.clients import TIMEOUT, post
from tests.triton.conftest import START_SECONDS, eventually, made, processes_of_group, scripted_repository
from tests.unit.serving.scripted import QUIET

HI = {"text_input": "hi", "max_tokens": 2}
PYTHON_PROCESSES = sum(model.count for model in MODELS if isinstance(model, PythonModel))
# A launcher of its own, which can be killed: starts a server, says its process group, and waits.
LAUNCHER = """
import sys
from pathlib import Path
from spec_cascade.serving.model_configs import MODELS, PythonModel
from spec_cascade.serving.server import TritonServer
server = TritonServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
server.wait()
"""


def launch(engine_dir: Path) -> tuple[subprocess.Popen[str], int]:
    """A launcher process and the process group of its server."""
    command = [sys.executable, "-c", LAUNCHER, str(engine_dir)]
    launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None
    return launcher, int(launcher.stdout.readline())


def test_a_stopped_server_leaves_nothing_behind(tiny_engine_dir: Path, tmp_path: Path) -> None:
    before = made()
    log = tmp_path / "server.log"
    server = TritonServer(tiny_engine_dir, log_file=log, verbose=True)
    server.start(START_SECONDS)
    group = server.pid
    assert group is not None
    assert len(processes_of_group(group)) == 1 + PYTHON_PROCESSES
    assert len(made() - before) == PYTHON_PROCESSES + 1  # a region each, and the private directory
    assert post(server, HI).status == 200
    server.stop()
    server.stop()
    assert server.pid is None
    eventually(lambda: not processes_of_group(group))
    assert made() == before
    assert "Started GRPCInferenceService" in log.read_text()


def test_stopping_ends_a_stream_that_would_never_end(
    tiny_engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "DRAIN_SECONDS", 1)
    before = made()
    with TritonServer(tiny_engine_dir, model_repository=scripted_repository(tmp_path)) as server:
        group = server.pid
        assert group is not None
        connection = HTTPConnection(urlsplit(server.http_url).netloc, timeout=TIMEOUT)
        body = json.dumps({**HI, "seed": QUIET, "stream": True})
        connection.request("POST", "/v2/models/ensemble/generate_stream", body)
    connection.close()
    eventually(lambda: not processes_of_group(group))
    assert made() == before


def test_a_taken_port_is_one_error_before_anything_starts(tiny_engine_dir: Path, server: TritonServer) -> None:
    before = made()
    port = urlsplit(server.grpc_url).port
    assert port is not None
    with pytest.raises(ConfigError, match=f"grpc_port = {port} .*another process listens"):
        TritonServer(tiny_engine_dir, grpc_port=port).start(START_SECONDS)
    assert made() == before


def test_a_damaged_engine_is_one_error_that_names_the_file(tiny_engine_dir: Path, tmp_path: Path) -> None:
    before = made()
    damaged = tmp_path / "engine"
    shutil.copytree(tiny_engine_dir, damaged)
    weights = damaged / "target" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(LaunchError, match=r"model 'cascade': .*target/model\.safetensors is damaged") as caught:
        TritonServer(damaged).start(START_SECONDS)
    assert "\n" not in str(caught.value)
    assert made() == before


def test_a_server_that_dies_is_an_error_of_whoever_waits_for_it(tiny_engine_dir: Path) -> None:
    before = made()
    with TritonServer(tiny_engine_dir) as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(LaunchError, match="tritonserver ended"):
            server.wait()
    assert made() == before


def test_the_server_ends_with_its_launcher(tiny_engine_dir: Path) -> None:
    launcher, group = launch(tiny_engine_dir)
    launcher.kill()
    launcher.communicate()
    eventually(lambda: not processes_of_group(group), seconds=30)
    assert not any(path.startswith("/dev/shm") for path in made(launcher.pid))


def test_what_a_killed_server_left_is_removed_at_the_next_start(tiny_engine_dir: Path) -> None:
    launcher, group = launch(tiny_engine_dir)
    os.killpg(group, signal.SIGSTOP)  # neither may clean up when the launcher is gone
    launcher.kill()
    launcher.communicate()
    os.killpg(group, signal.SIGKILL)
    eventually(lambda: not processes_of_group(group), seconds=30)
    assert len(made(launcher.pid)) == PYTHON_PROCESSES + 1  # a region for each, and the private directory
    with TritonServer(tiny_engine_dir):
        assert made(launcher.pid) == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_a_signal_and_leaves_nothing(tiny_engine_dir: Path, number: int) -> None:
    options = [argument for name in ("http", "grpc", "metrics") for argument in (f"--{name}-port", "0")]
    options += ["--host", "127.0.0.2", "--metrics-host", "127.0.0.3"]
    main = "from spec_cascade.cli import main; main()"
    command = [sys.executable, "-c", main, "serve", str(tiny_engine_dir), *options]
    serving = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert serving.stderr is not None
    ready = next(line for line in serving.stderr if line.startswith("ready: "))
    assert made(serving.pid)
    http, grpc, metrics = (urlsplit(url) for url in ready.split()[1:])
    assert (http.hostname, grpc.hostname, metrics.hostname) == ("127.0.0.2", "127.0.0.2", "127.0.0.3")
    for address, path in ((http, "/v2/models/ensemble/ready"), (metrics, "/metrics")):
        connection = HTTPConnection(address.netloc, timeout=TIMEOUT)
        connection.request("GET", path)
        assert connection.getresponse().status == 200
        connection.close()
    for port in (http.port, grpc.port, metrics.port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port or 0), timeout=5)
    serving.send_signal(number)
    serving.communicate(timeout=TIMEOUT)
    assert serving.returncode == 0
    assert made(serving.pid) == set()


def test_the_server_listens_where_it_is_told(server: TritonServer) -> None:
    for url in (server.http_url, server.grpc_url, server.metrics_url):
        parts = urlsplit(url)
        assert parts.hostname == "127.0.0.1"
        with socket.create_connection((parts.hostname, parts.port or 0), timeout=5):
            pass


@pytest.mark.parametrize(
    "path",
    ["/v2/repository/index", "/v2/repository/models/cascade/unload", "/v2/systemsharedmemory/status", "/v2/logging"],
)
def test_what_changes_a_running_server_is_closed(server: TritonServer, path: str) -> None:
    connection = HTTPConnection(urlsplit(server.http_url).netloc, timeout=TIMEOUT)
    connection.request("GET" if path.endswith(("status", "logging")) else "POST", path, "{}")
    assert connection.getresponse().status == 403
    connection.close()


def test_metrics_are_served(server: TritonServer) -> None:
    post(server, HI)
    connection = HTTPConnection(urlsplit(server.metrics_url).netloc, timeout=TIMEOUT)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    assert 'nv_inference_request_success{model="ensemble",version="1"}' in text
