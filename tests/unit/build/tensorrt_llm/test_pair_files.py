"""The pair files for real use pass a check from the published configurations, without a network and without weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import check_rule, load_pair
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, PAIR_FILES, SHIPPED, checked

if TYPE_CHECKING:
    from pathlib import Path

    import typer

# Requests of the greatest length that fit at a time; not to be lost by accident.
SEQUENCES = {
    "llama-3.3-70b-fp8-tp4": 154,
    "llama-3.3-70b-fp8-tp8": 87,
    "llama-3.1-8b": 43,
    "qwen3-32b": 28,
    "gemma-3-27b": 19,
}


@pytest.mark.parametrize("name", PAIR_FILES)
def test_the_pair_file_is_right(name: str) -> None:
    path = SHIPPED / f"{name}.yaml"
    pair, found = checked(path)
    check_rule(path, pair)
    assert found.memory.sequences == SEQUENCES[name]
    assert found.memory.sequences >= pair.defaults.max_batch_size
    assert found.target_configs.commit == pair.target.revision
    assert pair.tensorrt_llm is not None


@pytest.mark.parametrize("name", PAIR_FILES)
def test_the_command_passes_without_a_network(
    name: str, app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    words = ["build", str(SHIPPED / f"{name}.yaml"), "--check", "--configs", str(CHECKPOINTS)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"{name}: checked, no GPU and no weights were needed" in done.stdout
    assert "tokens of KV" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_place_of_the_configurations_may_be_a_variable(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEC_CASCADE_CONFIGS", str(CHECKPOINTS))
    words = ["build", str(SHIPPED / "qwen3-32b.yaml"), "--check"]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0


def test_without_configurations_and_without_a_network_one_line_says_what_to_give(tmp_path: Path) -> None:
    done = _check(SHIPPED / "qwen3-32b.yaml", tmp_path, HF_HOME=str(tmp_path / "empty"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "spec-cascade: the configuration of Qwen/Qwen3-32B is not in the local cache and the Hugging Face hub cannot "
        "be reached: give it with --configs or SPEC_CASCADE_CONFIGS"
    )


def test_a_model_that_is_not_among_the_configurations_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"Qwen/Qwen3-32B/config\.json: no such file; --configs looks for Qwen/Qwen3-32B"
    ):
        checked(SHIPPED / "qwen3-32b.yaml", tmp_path)


def test_the_larger_gemma_has_a_wider_row() -> None:
    _, found = checked(SHIPPED / "gemma-3-27b.yaml")
    assert (found.target.logits, found.drafter.logits, found.vocabulary.size) == (262208, 262144, 262144)


def test_reading_a_pair_file_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pathlib import Path; from spec_cascade_build.pair import load_pair;"
        "load_pair(Path(sys.argv[1]));"
        "print(sorted({'torch', 'transformers', 'numpy', 'pynvml', 'tensorrt_llm'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(SHIPPED / "qwen3-32b.yaml")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_every_pair_file_of_the_engine_is_checked_here() -> None:
    found = {path.stem for path in SHIPPED.glob("*.yaml") if load_pair(path).engine == "tensorrt_llm"}
    assert found == set(PAIR_FILES)


def _check(pair: Path, place: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`spec-cascade build --check` in a process of its own."""
    known = {name: value for name, value in os.environ.items() if name != "SPEC_CASCADE_CONFIGS"}
    return subprocess.run(
        [sys.executable, "-c", "from spec_cascade.cli import main; main()", "build", str(pair), "--check", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**known, "COLUMNS": "200", "HF_HUB_OFFLINE": "1", **environment},
    )
