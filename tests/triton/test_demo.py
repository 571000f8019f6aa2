"""`spec-cascade demo` on a tiny random pair: it shows what it promises, and leaves nothing however it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.unit.build.checkpoints import save_checkpoint, write_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = [sys.executable, "-u", "-c", "from spec_cascade.cli import main; main()", "demo"]
SECONDS = 240


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    directory = tmp_path_factory.mktemp("demo")
    save_checkpoint(directory / "target")
    pair = write_pair(directory / "pair.yaml", defaults={"rule": "strict", "max_seq_len": 256})
    return [str(pair), "--engines", str(directory / "engines")]


@pytest.fixture
def running(arguments: list[str]) -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "COLUMNS": "120"}
    process = subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    yield process
    process.kill()
    process.communicate()


def left_of(pid: int) -> list[str]:
    servers = [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if f"_{pid}_" in str(p.info["cmdline"])]
    return [*map(str, servers), *(str(path) for path in Path("/dev/shm").glob(f"*_{pid}_*"))]


def test_it_shows_answers_their_writers_and_a_table_and_leaves_nothing(running: subprocess.Popen[str]) -> None:
    output, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0, errors
    for heading in ("answer over gRPC", "answer over HTTP", "engine pair", "tokens/s", "Triton server"):
        assert heading in output
    assert re.search(r"written by: [TdRB ]+\n", output)
    rows = re.findall(r"^ +(\S+) +(\d+) +([\d.]+) +(\S+) +([\d.]+) +([\d.]+)x +(all|\d+ tokens) *$", output, re.M)
    assert [row[0] for row in rows[:2]] == ["target_only", "strict"]
    assert len(rows) >= 4
    assert rows[0][2:4] == ("1.00", "-")
    assert "\x1b[0m" not in output
    assert left_of(running.pid) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["engine pair", "answer over gRPC", "one letter a token"])
def test_a_signal_ends_it_at_any_moment_and_leaves_nothing(
    running: subprocess.Popen[str], number: signal.Signals, moment: str
) -> None:
    assert running.stdout is not None
    while moment not in running.stdout.readline():
        assert running.poll() is None
    running.send_signal(number)
    output, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 130, errors
    assert output.endswith("Interrupted; nothing is left running.\n")
    assert left_of(running.pid) == []


def test_a_wrong_pair_file_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "pair.yaml").write_text("name: x\n")
    run = subprocess.run(
        [*COMMAND, str(tmp_path / "pair.yaml")], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr
