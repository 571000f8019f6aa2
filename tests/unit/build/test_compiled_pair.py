"""Pairs of `engine: tensorrt` from their file to their manifest, on a stage that plays TensorRT-LLM's programs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from spec_cascade.engines.manifest import Manifest
from spec_cascade_build.build import build
from spec_cascade_build.commands import register
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.pair_error import PairError
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_tokenizer, write_pair
from tests.unit.build.tensorrt.stage import STEPS, Stage, set_stage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The programs, and two checkpoints with tokenizers."""
    stage = set_stage(tmp_path, monkeypatch)
    save_checkpoint(tmp_path / "target")
    save_checkpoint(tmp_path / "drafter", layers=1, seed=3)
    return stage


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def pair_file(root: Path, **fields: Any) -> Path:
    defaults = {"max_seq_len": 128, "max_batch_size": 4, "draft_length": 3, "max_draft_length": 5}
    return write_pair(
        root / "pair.yaml",
        **{
            "engine": "tensorrt",
            "dtype": "bfloat16",
            "drafter": {"path": "drafter"},
            "tensorrt": {"examples": "examples", "max_num_tokens": 512},
            "defaults": defaults,
            **fields,
        },
    )


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_build_ends_with_a_manifest(stage: Stage, tmp_path: Path) -> None:
    result = build(pair_file(tmp_path), tmp_path / "out", quiet())
    manifest = Manifest.read(tmp_path / "out")
    manifest.check(tmp_path / "out")
    assert (result.manifest, result.up_to_date) == (manifest, False)
    assert (manifest.engine, manifest.target.dtype, manifest.drafter.kind) == ("tensorrt", "bfloat16", "model")
    found = manifest.vocabulary
    assert (found.vocab_size, found.target_logits, found.drafter_logits) == (VOCAB, VOCAB, VOCAB)
    assert found.eos_token_ids == (2,)
    assert {"target/config.json", "drafter/config.json", "tokenizer/tokenizer.json"} <= manifest.files.keys()
    assert manifest.versions == {"tensorrt_llm": "1.2.1"}


def test_what_is_there_is_left_alone(stage: Stage, tmp_path: Path) -> None:
    path = pair_file(tmp_path)
    build(path, tmp_path / "out", quiet())
    assert build(path, tmp_path / "out", quiet()).up_to_date
    assert stage.started() == STEPS
    assert not build(path, tmp_path / "out", quiet(), force=True).up_to_date
    assert stage.started() == [*STEPS, *STEPS]


def test_a_lost_manifest_is_written_again_without_compiling(stage: Stage, tmp_path: Path) -> None:
    path = pair_file(tmp_path)
    build(path, tmp_path / "out", quiet())
    (tmp_path / "out" / "manifest.json").unlink()
    assert not build(path, tmp_path / "out", quiet()).up_to_date
    assert stage.started() == STEPS
    Manifest.read(tmp_path / "out").check(tmp_path / "out")


def test_another_vocabulary_is_refused_before_anything_is_compiled(stage: Stage, tmp_path: Path) -> None:
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    save_checkpoint(tmp_path / "drafter", layers=1, tokenizer=other)
    with pytest.raises(BuildError, match="target and drafter do not share a vocabulary"):
        build(pair_file(tmp_path), tmp_path / "out", quiet())
    assert stage.started() == []


def test_a_machine_without_tensorrt_llm_is_told_what_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    path = pair_file(tmp_path, tensorrt=None)
    with pytest.raises(BuildError) as caught:
        build(path, tmp_path / "out", quiet())
    assert str(caught.value).startswith("engine: tensorrt cannot be built here: trtllm-build is not on PATH")
    assert str(caught.value).endswith(". spec-cascade build --check and --dry-run work without")


def test_a_dry_run_prints_every_command_and_runs_none(stage: Stage, tmp_path: Path, app: typer.Typer) -> None:
    words = ["build", str(pair_file(tmp_path)), "--dry-run", "--output", str(tmp_path / "out")]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert [line.split(":")[0] for line in text.splitlines() if "not there yet" in line or "to do" in line] == STEPS
    assert "--speculative_decoding_mode=draft_tokens_external" in text
    assert text.rstrip().endswith("tiny: nothing was run and nothing was written")
    assert stage.started() == []
    assert not (tmp_path / "out").exists()


def test_a_check_needs_no_weights(tmp_path: Path, app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("target", "drafter"):
        save_checkpoint(tmp_path / "configs" / "org" / name)
        (tmp_path / "configs" / "org" / name / "model.safetensors").unlink()
    path = pair_file(tmp_path, target={"hub": "org/target"}, drafter={"hub": "org/drafter"})
    words = ["build", str(path), "--check", "--configs", str(tmp_path / "configs")]
    text = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert text.splitlines()[0] == "tiny: the pair file, its rule and what the engines are built for are right"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drafter": {"prompt_lookup": {}}}, "drafter = {'prompt_lookup': {}} is not allowed: must be a model"),
        ({"compile": True}, "compile = True is not allowed: must be left out: the engine 'tensorrt' compiles for no"),
        ({"tensorrt": {"jobs": 0}}, "tensorrt.jobs = 0 is not allowed: must be an integer >= 1"),
        (
            {"engine": "pytorch"},
            "tensorrt = {'max_num_tokens': 512, 'examples': 'examples'} is not allowed: must be left out: the engine "
            "is 'pytorch'",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = pair_file(tmp_path, **change)
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_bound_that_does_not_fit_is_an_error_of_the_file(stage: Stage, tmp_path: Path, app: typer.Typer) -> None:
    path = pair_file(tmp_path, tensorrt={"examples": "examples", "max_num_tokens": 16})
    done = CliRunner().invoke(app, ["build", str(path), "--check"])
    assert isinstance(done.exception, PairError)
    assert str(done.exception).startswith(f"{path}: tensorrt.max_num_tokens = 16 is not allowed")
