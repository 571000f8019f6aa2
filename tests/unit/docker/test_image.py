"""The Dockerfile's commands, run one after the other without docker, and the image's command and probe after them."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spec_cascade.engines.tensorrt_llm.hook import FILE_NAME, LINE
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade_build.tensorrt_llm.llm_manifest import planned_manifest
from tests.unit.build.tensorrt_llm.pairs import SHIPPED, checked
from tests.unit.docker import stand_in
from tests.unit.docker.context import copy_context
from tests.unit.docker.dockerfile import healthcheck, project
from tests.unit.docker.played import Player, base_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

WHEEL, IMAGE = project()
READY_SECONDS = 120
# What pip says where it cannot reach its index, for the one thing that the build fetches and no test environment has.
_NO_INDEX = ("NewConnectionError", "Temporary failure in name resolution", "ConnectTimeoutError", "ProxyError")


class Played:
    """The image."""

    def __init__(self, player: Player, root: Path) -> None:
        self.player = player
        self.root = root
        self.environment = player.environment(root)

    @property
    def site(self) -> Path:
        return next((self.player.interpreter / "lib").glob("python3.*/site-packages"))

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        """A command in the image, as docker would start it."""
        words = [self.player.in_stage(word, self.root) for word in words]
        return subprocess.Popen(
            words, env=self.environment, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def output_of(self, words: list[str]) -> tuple[int, str]:
        process = self.start(words)
        output, _ = process.communicate(timeout=READY_SECONDS)
        return process.returncode, output


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Played:
    place = tmp_path_factory.mktemp("played")
    copy_context(place / "context")
    player = Player(place / "context", place, base_environment(place / "python"))
    try:
        player.play(WHEEL)
    except RuntimeError as error:
        if any(sign in str(error) for sign in _NO_INDEX):
            pytest.skip("no package index can be reached")
        raise
    return Played(player, player.play(IMAGE))


def test_the_wheel_has_what_is_no_python(image: Played) -> None:
    models = image.player.interpreter / "share" / "spec-cascade" / "triton_model_repo"
    assert {path.name for path in models.iterdir()} == {
        *("cascade", "ensemble", "ensemble_unary", "postprocessing", "preprocessing")
    }
    contracts = image.site / "spec_cascade" / "engines" / "tensorrt_llm" / "contracts"
    assert not contracts.is_symlink()
    assert (contracts / "common.yaml").is_file()


def test_nothing_that_the_image_had_was_touched(image: Played) -> None:
    links = [path for path in image.site.iterdir() if path.is_symlink()]
    assert {"torch", "numpy", "transformers"} <= {path.name for path in links}
    held = (image.root / "opt" / "spec-cascade" / "held.txt").read_text()
    assert "\ntensorrt-llm==1.2.1\n" in held
    assert "\ntorch==" in held


def test_the_hook_is_in_the_interpreter_of_the_image(image: Played) -> None:
    assert (image.site / FILE_NAME).read_text() == LINE
    status, output = image.output_of([sys_name(image), "-c", "print('started')"])
    assert (status, output) == (0, "started\n")


def test_the_build_ends_where_a_fresh_interpreter_does_not_find_the_hook(image: Played) -> None:
    (check,) = [words for run in IMAGE.all("RUN") for words in run.commands if words[0].startswith(f"{VARIABLE}=")]
    script = ["/bin/sh", "-c", f"{check[0]} {shlex.join(check[1:])}"]
    assert image.output_of(script) == (0, "")
    hook = image.site / FILE_NAME
    hook.rename(image.root / FILE_NAME)
    try:
        assert image.output_of(script)[0] == 1
    finally:
        (image.root / FILE_NAME).rename(hook)


def test_what_opens_an_engine_is_there_without_a_client_library(image: Played) -> None:
    code = (
        "import spec_cascade.engines.tensorrt_llm.open, spec_cascade_build.tensorrt_llm.build;"
        "from importlib.util import find_spec; print(spec_cascade.__file__, find_spec('tritonclient'))"
    )
    status, output = image.output_of([sys_name(image), "-c", code])
    assert (status, output) == (0, f"{image.site / 'spec_cascade' / '__init__.py'} None\n")


def test_the_other_verbs_run_in_place_of_the_command(image: Played) -> None:
    status, output = image.output_of(["spec-cascade", "doctor", "--json"])
    found = json.loads(output[output.index("{") :])
    assert status == 1
    assert not found["healthy"]
    states = {check["name"]: check["state"] for check in found["checks"]}
    # There is its metadata, and nothing to import.
    assert states["tensorrt_llm"] == "failed"
    assert states["start-up hook"] == "ok"


@pytest.fixture
def server(image: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[subprocess.Popen[str]]:
    """The image's command, on free ports."""
    if not (image.root / "opt" / "tritonserver").exists():
        stand_in.write(image.root / "opt" / "tritonserver" / "bin")
        planned_manifest(*checked(SHIPPED / "llama-3.1-8b.yaml")).write(image.root / "engines")
    image.environment["RECORD"] = str(tmp_path / "record.json")
    free = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    process = image.start([*IMAGE.last("CMD").words, *free])
    yield process
    process.kill()
    process.communicate()


def test_the_command_serves_the_probe_passes_and_both_end(
    image: Played, server: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = ready_url(server)
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["engine"] == str(image.root / "engines")
    assert record["models"] == ["cascade", "ensemble", "ensemble_unary", "postprocessing", "preprocessing"]
    assert record["options"]["http-address"] == record["options"]["metrics-address"] == "0.0.0.0"
    # The server of the image knows where its backends are.
    assert "backend-directory" not in record["options"]

    probe = [word.replace("http://127.0.0.1:8000", url) for word in healthcheck(IMAGE.last("HEALTHCHECK"))]
    status, output = image.output_of(probe)
    assert (status, output[:10]) == (0, "canary: ok")

    server.send_signal(signal.SIGTERM)
    assert server.wait(READY_SECONDS) == 0
    status, output = image.output_of(probe)
    assert status == 1
    assert output.startswith("canary: ")


def ready_url(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    deadline = time.monotonic() + READY_SECONDS
    for line in server.stdout:
        if line.startswith("ready: "):
            return line.split()[1]
        assert time.monotonic() < deadline
    raise AssertionError(f"it ended with status {server.wait()}")


def sys_name(image: Played) -> str:
    return str(image.player.interpreter / "bin" / Path(sys.executable).name)
