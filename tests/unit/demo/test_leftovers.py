"""What a stopped server left behind is seen, with a real process, port and shared-memory file."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from spec_cascade_build.demo import leftovers
from spec_cascade_build.demo.leftovers import Footprint, own_shared_memory

pytestmark = pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs Linux")

# Listens, starts a child as the server starts its stubs, tells the port, and waits.
SERVER = """
import socket, subprocess, sys
listener = socket.create_server(("127.0.0.1", 0))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(listener.getsockname()[1], child.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(leftovers, "_GONE_WITHIN_SECONDS", 0.0)


@pytest.fixture
def server():
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    port, child = map(int, process.stdout.readline().split())
    yield process, f"http://127.0.0.1:{port}", child
    process.stdin.close()
    process.wait()
    process.stdout.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, 9)


def test_a_server_that_runs_is_seen_with_its_children_and_port(server):
    process, url, child = server
    footprint = Footprint(process.pid, (url,), own_shared_memory())
    assert set(footprint.leftovers()) == {f"process {process.pid}", f"process {child}", f"a listener on {url}"}


def test_a_child_that_outlives_its_server_is_seen(server):
    process, url, child = server
    process.stdin.close()
    process.wait()
    assert Footprint(process.pid, (url,), own_shared_memory()).leftovers() == [f"process {child}"]


def test_a_child_that_is_about_to_go_is_waited_for(server, monkeypatch):
    monkeypatch.setattr(leftovers, "_GONE_WITHIN_SECONDS", 30.0)
    process, url, child = server
    process.stdin.close()
    process.wait()
    killer = threading.Timer(0.2, os.kill, (child, 9))
    killer.start()
    assert Footprint(process.pid, (url,), own_shared_memory()).leftovers() == []
    killer.join()


def test_shared_memory_of_this_process_is_seen_and_that_of_others_is_not():
    before = own_shared_memory()
    ours, theirs = (Path(f"/dev/shm/spec_cascade_1_{pid}_test_region") for pid in (os.getpid(), os.getpid() + 1))
    try:
        ours.touch()
        theirs.touch()
        assert Footprint(None, (), before).leftovers() == [str(ours)]
    finally:
        ours.unlink(missing_ok=True)
        theirs.unlink(missing_ok=True)
