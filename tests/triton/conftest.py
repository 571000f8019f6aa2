"""Real servers: one on a tiny random pair, one whose engine follows a script."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from spec_cascade.serving.repository import find_model_repository
from spec_cascade.serving.server import TritonServer
from tests.built import build_tiny
from tests.unit.serving import scripted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHARED_MEMORY = Path("/dev/shm")
START_SECONDS = 120

# The model.py that takes the real one's place: the same class, with `open_engine` replaced.
SCRIPTED_MODEL = """
import importlib.util
import sys
from pathlib import Path

import spec_cascade.engines

sys.path.insert(0, str(Path(__file__).parent))
import scripted

spec_cascade.engines.open_engine = lambda _directory: scripted.ScriptedEngine()
spec = importlib.util.spec_from_file_location("real_model", Path(__file__).with_name("real_model.py"))
real_model = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real_model)
TritonPythonModel = real_model.TritonPythonModel
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.triton)


@pytest.fixture(scope="session", autouse=True)
def _quiet_libraries() -> Iterator[None]:
    """One thread for each server's tensors: several run side by side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        yield


@pytest.fixture(scope="session")
def tiny_engine_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine directory built from a random Llama and a byte-level tokenizer."""
    directory = tmp_path_factory.mktemp("tiny")
    # Without fallback: whether a random drafter pays would depend on the machine.
    defaults = {"rule": "strict", "max_seq_len": 256, "max_batch_size": 4, "max_queue_size": 60, "fallback": False}
    return build_tiny(directory, defaults=defaults)


@pytest.fixture(scope="session")
def server(tiny_engine_dir: Path) -> Iterator[TritonServer]:
    """A server on the tiny pair."""
    running = TritonServer(tiny_engine_dir)
    running.start(START_SECONDS)
    yield running
    running.stop()


@dataclass
class ScriptedServer:
    """A server whose engine follows a script."""

    server: TritonServer
    state: Path
    hold: Path

    @contextmanager
    def held(self) -> Iterator[None]:
        """The engine takes requests and runs no rounds."""
        self.hold.touch()
        try:
            yield
        finally:
            self.hold.unlink()

    def counts(self) -> dict[str, int]:
        """How many requests the engine holds, and how many were cancelled since it started."""
        counts: dict[str, int] = (
            json.loads(self.state.read_text()) if self.state.exists() else {"live": 0, "cancelled": 0}
        )
        return counts


def scripted_repository(directory: Path) -> Path:
    """The model repository with the scripted engine in it."""
    repository = directory / "models"
    shutil.copytree(find_model_repository(), repository, ignore=shutil.ignore_patterns("__pycache__"))
    version = repository / "cascade" / "1"
    (version / "model.py").rename(version / "real_model.py")
    (version / "model.py").write_text(SCRIPTED_MODEL)
    shutil.copy(scripted.__file__, version)
    return repository


@pytest.fixture(scope="session")
def scripted_server(tiny_engine_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedServer]:
    """A server whose engine follows a script; its tokenizer is the tiny pair's."""
    directory = tmp_path_factory.mktemp("scripted")
    state, hold = directory / "state.json", directory / "hold"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(scripted.STATE_VARIABLE, str(state))
        patch.setenv(scripted.HOLD_VARIABLE, str(hold))
        running = TritonServer(tiny_engine_dir, model_repository=scripted_repository(directory))
        running.start(START_SECONDS)
    yield ScriptedServer(running, state, hold)
    running.stop()


def eventually(holds: Callable[[], Any], seconds: float = 30) -> None:
    """Wait until it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)


def processes_of_group(group: int) -> list[int]:
    """Ids of the processes of a process group; one that has ended and not been waited for counts as gone."""
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
    return members


def made(launcher: int | None = None) -> set[str]:
    """What servers have in shared memory and among temporary files that this process, or another one, started."""
    name = f"spec_cascade_*_{launcher or os.getpid()}_*"
    return {str(path) for place in (SHARED_MEMORY, Path(tempfile.gettempdir())) for path in place.glob(name)}
