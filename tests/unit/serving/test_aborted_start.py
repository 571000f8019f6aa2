"""A server that aborts while it loads its models is started once more."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from spec_cascade.engines.manifest import Manifest
from spec_cascade.serving import server as server_module
from spec_cascade.serving.errors import LaunchError
from spec_cascade.serving.installation import Installation
from spec_cascade.serving.server import TritonServer
from tests.triton.conftest import made

# Counts its starts, aborts in the first ones, and is ready in the next.
SERVER = """#!{python}
import os, pathlib, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
starts = pathlib.Path({starts!r})
starts.write_text(starts.read_text() + "start\\n")
print("terminate called after throwing an instance of 'boost::interprocess::lock_exception'", flush=True)
if len(starts.read_text().split()) <= {aborts}:
    os.{ends}
class Ready(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
(port,) = (a.partition("=")[2] for a in sys.argv if a.startswith("--http-port="))
HTTPServer(("127.0.0.1", int(port)), Ready).serve_forever()
"""


@pytest.fixture
def starts(tmp_path: Path) -> Path:
    path = tmp_path / "starts"
    path.touch()
    return path


@pytest.fixture
def server(
    tmp_path: Path, starts: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> TritonServer:
    aborts, ends = request.param
    executable = tmp_path / "tritonserver"
    executable.write_text(SERVER.format(python=sys.executable, starts=str(starts), aborts=aborts, ends=ends))
    executable.chmod(executable.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(server_module, "find_installation", lambda _: Installation(executable, None, ()))
    monkeypatch.setattr(Manifest, "read", lambda _: None)
    return TritonServer(tmp_path)


@pytest.mark.parametrize("server", [(1, "abort()")], indirect=True)
def test_one_abort_is_survived_and_told(server: TritonServer, starts: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = made()
    with server:
        assert server.pid is not None
        assert "started once more: tritonserver ended; the end of its log:\nterminate called" in caplog.text
    assert starts.read_text() == "start\n" * 2
    assert made() == before


@pytest.mark.parametrize(("server", "number"), [((9, "abort()"), 2), ((9, "_exit(1)"), 1)], indirect=["server"])
def test_a_second_abort_and_any_other_end_are_not(server: TritonServer, starts: Path, number: int) -> None:
    before = made()
    with pytest.raises(LaunchError, match="lock_exception"):
        server.start()
    assert starts.read_text() == "start\n" * number
    assert made() == before
