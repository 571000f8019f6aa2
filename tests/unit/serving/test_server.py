"""What can go wrong before there is a server: each ends in one clear error."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spec_cascade.errors import ConfigError, EngineError
from spec_cascade.serving import installation, leftovers
from spec_cascade.serving.errors import LaunchError
from spec_cascade.serving.installation import PYTHON_VERSION, find_installation, libpython_directory
from spec_cascade.serving.ports import resolve_ports
from spec_cascade.serving.repository import find_model_repository
from spec_cascade.serving.server import TritonServer
from spec_cascade.serving.server_log import ServerLog

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
HOSTS = dict.fromkeys(("http_port", "grpc_port", "metrics_port"), HOST)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the files of the wheel that the launcher looks at, and no tritonserver on PATH."""
    root = tmp_path / "site-packages" / "pytriton"
    files = [
        "tritonserver/bin/tritonserver",
        "tritonserver/backends/python/libtriton_python.so",
        f"tritonserver/python_backend_stubs/{PYTHON_VERSION}/triton_python_backend_stub",
        "tritonserver/python_backend_stubs/3.7/triton_python_backend_stub",
    ]
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch(mode=0o755)
    (root / "__init__.py").write_text("raise SystemExit('the package was imported')")
    monkeypatch.syspath_prepend(str(root.parent))
    monkeypatch.setenv("PATH", "/usr/sbin:/sbin")
    return root


def test_a_taken_port_is_named(taken_port: int) -> None:
    with pytest.raises(ConfigError, match=rf"grpc_port = {taken_port} .* another process listens on {HOST}"):
        resolve_ports(HOSTS, {"http_port": 0, "grpc_port": taken_port})


def test_a_port_is_given_once() -> None:
    with pytest.raises(ConfigError, match=r"grpc_port = 18456 .*of its own"):
        resolve_ports(HOSTS, {"http_port": 18456, "grpc_port": 18456})


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_is_in_range(port: int) -> None:
    with pytest.raises(ConfigError, match=f"http_port = {port}"):
        resolve_ports(HOSTS, {"http_port": port})


def test_an_address_of_another_machine_is_named() -> None:
    with pytest.raises(ConfigError, match=r"host of metrics_port = '192\.0\.2\.1'"):
        resolve_ports({**HOSTS, "metrics_port": "192.0.2.1"}, {"http_port": 0, "metrics_port": 0})


def test_free_ports_differ() -> None:
    ports = resolve_ports(HOSTS, dict.fromkeys(HOSTS, 0))
    assert len(set(ports.values())) == 3
    assert all(1024 < port < 32768 for port in ports.values())


def test_the_server_on_path_comes_first(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable = tmp_path / "bin" / "tritonserver"
    executable.parent.mkdir()
    executable.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(executable.parent))
    found = find_installation(tmp_path)
    assert found.executable == executable
    assert found.backend_directory is None


def test_the_wheels_server_gets_the_stub_of_this_python(package: Path, tmp_path: Path) -> None:
    found = find_installation(tmp_path)
    assert found.executable == package / "tritonserver/bin/tritonserver"
    assert found.backend_directory == tmp_path / "backends"
    backend = tmp_path / "backends" / "python"
    assert (backend / "libtriton_python.so").exists()
    stub = (backend / "triton_python_backend_stub").resolve()
    assert stub.parent.name == PYTHON_VERSION
    assert os.access(stub, os.X_OK)
    assert package.parent / "nvidia_pytriton.libs" in found.library_path


def test_without_a_server_the_error_says_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(installation, "find_spec", lambda _name: None)
    with pytest.raises(LaunchError, match=r"no tritonserver found.*pip install 'spec-cascade\[server\]'"):
        find_installation(tmp_path)


def test_without_a_stub_for_this_python_the_error_names_those_there_are(package: Path, tmp_path: Path) -> None:
    (package / f"tritonserver/python_backend_stubs/{PYTHON_VERSION}/triton_python_backend_stub").unlink()
    with pytest.raises(LaunchError, match=rf"no Python backend for Python {PYTHON_VERSION}, only for .*3\.7"):
        find_installation(tmp_path)


def test_without_libpython_the_error_says_what_is_missing_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=rf"libpython{PYTHON_VERSION}\.so.*apt-get install libpython{PYTHON_VERSION}"):
        libpython_directory([tmp_path, tmp_path / "missing"])


def test_libpython_is_found_where_it_is(tmp_path: Path) -> None:
    (tmp_path / f"libpython{PYTHON_VERSION}.so.1.0").touch()
    assert libpython_directory([Path("/nowhere"), tmp_path]) == tmp_path


def test_a_python_home_does_not_reach_the_stub(package: Path, tmp_path: Path) -> None:
    environment = find_installation(tmp_path).environment({"PYTHONHOME": "/x", "PATH": "/p", "LD_LIBRARY_PATH": "/l"})
    assert "PYTHONHOME" not in environment
    assert environment["PATH"] == f"{sys.prefix}/bin:/p"
    assert environment["LD_LIBRARY_PATH"].endswith(":/l")


def test_a_directory_without_an_engine_is_named_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not a finished engine.*run spec-cascade build"):
        TritonServer(tmp_path).start()
    with pytest.raises(EngineError, match="no such engine directory"):
        TritonServer(tmp_path / "missing").start()


def test_a_directory_without_models_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LaunchError, match=f"no model repository in {tmp_path}"):
        find_model_repository(tmp_path)
    monkeypatch.setenv("SPEC_CASCADE_MODEL_REPOSITORY", str(tmp_path / "named"))
    with pytest.raises(LaunchError, match="named"):
        find_model_repository()


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "127.0.0.1:8"), ("::", r"\[::1\]:8"), ("10.0.0.1", "10.0.0.1:8")]
)
def test_urls_are_for_clients_on_this_machine(tmp_path: Path, host: str, url: str) -> None:
    server = TritonServer(tmp_path, http_port=8, grpc_port=8, metrics_port=8, host=host, metrics_host=host)
    assert server.http_url == "http://" + url.replace("\\", "")
    assert server.grpc_url == "grpc://" + url.replace("\\", "")
    assert server.metrics_url == "http://" + url.replace("\\", "") + "/metrics"


def test_the_log_of_a_model_that_fails_to_load_becomes_its_reason() -> None:
    reason = "/engines/x: target/model.safetensors is missing: build again"
    traceback = r"\n\nAt:\n  /a/model.py(19): initialize\n"
    failure = f"failed to load 'cascade' version 1: Internal: EngineError: {reason}{traceback}"
    line = f'E1121 model_lifecycle.cc:642] "{failure}"\n'
    log = ServerLog(io.BytesIO(b"first\n" + line.encode() + b"last\n"), None)
    log.close()
    assert log.failure() == f"tritonserver could not load the model 'cascade': {reason}"


def test_any_other_log_is_quoted_by_its_end(tmp_path: Path) -> None:
    file = tmp_path / "server.log"
    log = ServerLog(io.BytesIO(b"".join(b"line %d\n" % i for i in range(5000))), file)
    log.close()
    assert log.failure().startswith("tritonserver ended; the end of its log:\nline 4985\n")
    assert log.failure().endswith("line 4999")
    assert file.read_text().count("\n") == 5000


def test_a_log_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    from spec_cascade.engines import manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest.Manifest, "read", lambda _directory: None)
        with pytest.raises(ConfigError, match=r"log_file = .*missing"):
            TritonServer(tmp_path, log_file=tmp_path / "missing" / "log").start()


def test_a_policy_that_is_not_there_is_named(tmp_path: Path) -> None:
    from spec_cascade.engines import manifest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest.Manifest, "read", lambda _directory: None)
        with pytest.raises(ConfigError, match=r"policy = .*missing\.yaml.*a file"):
            TritonServer(tmp_path, policy_file=tmp_path / "missing.yaml").start()


def test_only_what_dead_processes_of_this_namespace_made_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, temporary = tmp_path / "memory", tmp_path / "temporary"
    memory.mkdir()
    temporary.mkdir()
    monkeypatch.setattr(leftovers, "_SHARED_MEMORY", memory)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    namespace = Path("/proc/self/ns/pid").stat().st_ino
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = leftovers.new_run()
    stale = f"spec_cascade_{namespace}_{dead.pid}_abcd_"
    kept = {
        f"{mine}region",
        f"spec_cascade_{namespace + 1}_{dead.pid}_abcd_region",
        f"spec_cascade_{namespace}_1_abcd_region",
        "triton_python_backend_shm_region_1",
    }
    for name in {f"{stale}region", *kept}:
        (memory / name).touch()
    (leftovers.make_directory(stale) / "backends").mkdir()
    leftovers.make_directory(mine)
    leftovers.remove_stale()
    assert {path.name for path in memory.iterdir()} == kept
    assert {path.name for path in temporary.iterdir()} == {mine}
    leftovers.remove(mine)
    assert {path.name for path in memory.iterdir()} == kept - {f"{mine}region"}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/engine"], "spec-cascade: /no/engine: no such engine directory"),
        ([".", "--http-port", "70000"], "spec-cascade: . is not a finished engine"),
    ],
)
def test_the_command_ends_with_one_line_and_a_status(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "from spec_cascade.cli import main; main()", "serve", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 1
    assert ended.stderr.strip().startswith(message)
    assert len(ended.stderr.strip().splitlines()) == 1
