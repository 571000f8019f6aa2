"""A whole build with stand-ins for what needs a GPU."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console
from transformers import AutoTokenizer

from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.model_reference import ModelReference
from spec_cascade.errors import EngineError
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.warm_up import warm_up
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_tokenizer
from tests.unit.build.tensorrt_llm.pairs import write_pair

if TYPE_CHECKING:
    from tests.unit.build.tensorrt_llm.machine import StandIn


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A pair of tiny checkpoints beside its file."""
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20)
    save_checkpoint(tmp_path / "drafter", layers=1, vocab=VOCAB + 4)
    return write_pair(
        tmp_path / "pair.yaml",
        name="tiny",
        target={"path": "target"},
        drafter={"path": "drafter"},
        defaults={"max_seq_len": 128, "rule": "token_v3:alpha=0.5", "draft_mode": "argmax"},
    )


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_the_directory_holds_all_but_the_models(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    result = build(pair, tmp_path / "out", quiet())
    manifest = Manifest.read(tmp_path / "out")
    manifest.check(tmp_path / "out")
    assert manifest == result.manifest
    assert set(manifest.files) == {
        "llm.yaml",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    }
    assert (tmp_path / "out" / "autotuner" / "cache.rank0.json").is_file()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert loaded("the cat 😀").input_ids == tiny_tokenizer()("the cat 😀").input_ids


def test_the_manifest_tells_what_runs(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    manifest = build(pair, tmp_path / "out", quiet()).manifest
    assert (manifest.engine, manifest.target.dtype, manifest.drafter.kind) == ("tensorrt_llm", "bfloat16", "model")
    assert (manifest.defaults.draft_length, manifest.defaults.max_draft_length) == (4, 4)
    assert (manifest.defaults.fallback, manifest.defaults.draft_mode) == (False, "argmax")
    found = manifest.vocabulary
    assert (found.vocab_size, found.target_logits, found.drafter_logits) == (VOCAB, VOCAB + 20, VOCAB + 4)
    assert found.eos_token_ids == (2,)
    assert manifest.versions["tensorrt_llm"] == "1.2.1"
    entry = manifest.tensorrt_llm
    assert entry is not None
    assert (entry.gpu, entry.tensor_parallel_size) == ("H100", 1)
    assert entry.autotuner_gpu == "NVIDIA H100 80GB HBM3"
    assert entry.target.path(tmp_path / "out") == tmp_path / "target"
    assert entry.target.content != entry.drafter.content


def test_tensorrt_llm_is_started_once_with_the_arguments_of_the_file(
    pair: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    build(pair, tmp_path / "out", quiet())
    written = yaml.safe_load((tmp_path / "out" / "llm.yaml").read_text())
    started = stand_in.started()
    assert started["arguments"] == written
    assert written["model"] == str(tmp_path / "target")
    assert written["speculative_config"]["speculative_model"] == str(tmp_path / "drafter")


def test_the_same_pair_is_not_built_twice(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    first = build(pair, tmp_path / "out", quiet())
    assert not first.up_to_date
    assert build(pair, tmp_path / "out", quiet()).up_to_date
    # What TensorRT-LLM adds to its cache while it serves changes nothing.
    (tmp_path / "out" / "autotuner" / "cache.rank0.json").write_text('{"more": 1}')
    assert build(pair, tmp_path / "out", quiet()).up_to_date
    again = build(pair, tmp_path / "out", quiet(), force=True)
    assert (again.up_to_date, again.manifest.key) == (False, first.manifest.key)


@pytest.mark.parametrize("change", ["version", "gpu", "weights", "pair"])
def test_what_changed_is_built_again(pair: Path, tmp_path: Path, stand_in: StandIn, change: str) -> None:
    key = build(pair, tmp_path / "out", quiet()).manifest.key
    if change == "version":
        stand_in.version("1.2.2")
    elif change == "gpu":
        stand_in.write("gpus.json", json.dumps([{"name": "NVIDIA H200", "memory": 150 << 30, "capability": [9, 0]}]))
    elif change == "weights":
        save_checkpoint(tmp_path / "drafter", layers=1, vocab=VOCAB + 4, seed=5)
    else:
        pair.write_text(pair.read_text().replace("max_batch_size: 32", "max_batch_size: 16"))
    again = build(pair, tmp_path / "out", quiet())
    assert not again.up_to_date
    assert again.manifest.key != key


def test_a_local_checkpoint_elsewhere_is_built_for_again(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    build(pair, tmp_path / "out", quiet())
    (tmp_path / "drafter").rename(tmp_path / "moved")
    pair.write_text(pair.read_text().replace("path: drafter", "path: moved"))
    again = build(pair, tmp_path / "out", quiet())
    assert not again.up_to_date
    assert again.manifest.tensorrt_llm is not None
    assert again.manifest.tensorrt_llm.drafter.path(tmp_path / "out") == tmp_path / "moved"
    assert stand_in.started()["arguments"]["speculative_config"]["speculative_model"] == str(tmp_path / "moved")


def test_a_pair_is_the_same_from_wherever_it_is_built(
    pair: Path, tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(pair, tmp_path / "out", quiet())
    monkeypatch.chdir(tmp_path / "target")
    assert build(Path("../pair.yaml"), tmp_path / "out", quiet()).up_to_date


def test_the_memory_of_this_gpu_counts(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    pair.write_text(pair.read_text().replace("gpu: H100", "gpu: this"))
    build(pair, tmp_path / "out", quiet())
    assert build(pair, tmp_path / "out", quiet()).up_to_date
    stand_in.gpus(1, memory=40 << 30)
    assert not build(pair, tmp_path / "out", quiet()).up_to_date


def test_a_start_that_fails_names_its_log_and_leaves_nothing_half_made(
    pair: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    (stand_in.directory / "fail").touch()
    with pytest.raises(BuildError) as caught:
        build(pair, tmp_path / "out", quiet())
    log = tmp_path / "out.building" / "logs" / "warm-up.log"
    assert str(caught.value) == (
        f"warm-up ended with exit status 1; its log {log} ends with:\n  CUDA out of memory\n"
        "(the GPU's memory did not suffice: raise tensor_parallel_size or lower defaults)"
    )
    assert log.read_text().endswith("CUDA out of memory\n")
    assert {path.name for path in tmp_path.iterdir()} == {"drafter", "out.building", "pair.yaml", "target"}
    (stand_in.directory / "fail").unlink()
    build(pair, tmp_path / "out", quiet())
    assert not log.parents[1].exists()
    assert (tmp_path / "out" / "logs" / "warm-up.log").is_file()


def test_a_failure_before_any_command_leaves_nothing(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / "drafter" / "tokenizer.json").unlink()
    with pytest.raises(BuildError, match=r"tokenizer"):
        build(pair, tmp_path / "out", quiet())
    assert {path.name for path in tmp_path.iterdir()} == {"drafter", "pair.yaml", "target"}


@pytest.mark.parametrize("force", [False, True])
def test_a_quantised_checkpoint_outlasts_a_start_that_fails(
    pair: Path, tmp_path: Path, stand_in: StandIn, force: bool
) -> None:
    text = pair.read_text().replace("gpu: H100", "gpu: H100\n  quantise: fp8\n  quantise_drafter: none")
    pair.write_text(text)
    (stand_in.directory / "fail").touch()
    with pytest.raises(BuildError, match="warm-up ended with exit status 1"):
        build(pair, tmp_path / "out", quiet())
    (stand_in.directory / "fail").unlink()
    manifest = build(pair, tmp_path / "out", quiet(), force=force).manifest
    # Once for both tries, unless all is to be done again.
    assert stand_in.quantised() == [str(tmp_path / "out.building" / "partial" / "quantise-target")] * (1 + force)
    assert "target/model.safetensors" in manifest.files
    assert "target/step.json" not in manifest.files
    assert {path.name for path in (tmp_path / "out" / "logs").iterdir()} == {"quantise-target.log", "warm-up.log"}
    assert not (tmp_path / "out.building").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_ends_what_it_started(
    pair: Path, tmp_path: Path, stand_in: StandIn, number: signal.Signals
) -> None:
    waiting = stand_in.let_wait()
    script = "import sys; from rich.console import Console; from pathlib import Path\n"
    script += "from spec_cascade_build.build import build; build(Path(sys.argv[1]), Path(sys.argv[2]), Console())"
    command = [sys.executable, "-c", script, str(pair), str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        with waiting.open() as told:
            assert told.read() == "started\n"
        # While what it started runs, nobody builds beside it.
        with pytest.raises(BuildError, match=f"is being built by process {process.pid}, or a command"):
            build(pair, tmp_path / "out", quiet())
        process.send_signal(number)
    assert process.returncode != 0
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.building"]
    # Whatever is left of it would hold the lock.
    waiting.unlink()
    build(pair, tmp_path / "out", quiet())


def test_a_start_without_an_answer_is_a_failure(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    (stand_in.directory / "silent").touch()
    with pytest.raises(BuildError, match="warm_up: TensorRT-LLM started, but answered with no token"):
        build(pair, tmp_path / "out", quiet())


def test_a_file_that_no_build_wrote_starts_nothing(tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / "llm.yaml").write_text("model: x\n")
    with pytest.raises(BuildError, match=r"llm\.yaml is not a file that spec-cascade build wrote"):
        warm_up(tmp_path / "llm.yaml", "target", "drafter")


def test_without_tensorrt_llm_nothing_is_started(tmp_path: Path, bare: None) -> None:
    (tmp_path / "llm.yaml").write_text("model: x\nspeculative_config: {decoding_type: DraftTarget}\n")
    with pytest.raises(BuildError, match="TensorRT-LLM is not installed"):
        warm_up(tmp_path / "llm.yaml", "target", "drafter")


def test_a_model_that_was_moved_is_named(tmp_path: Path) -> None:
    reference = ModelReference(directory=str(tmp_path / "gone"))
    with pytest.raises(EngineError, match=r"gone holds no checkpoint \(no config\.json\)"):
        reference.path(tmp_path)
    with pytest.raises(EngineError, match="org/name at abc is not in the local cache"):
        ModelReference(hub="org/name", commit="abc").path(tmp_path)


@pytest.mark.parametrize("wrong", [{}, {"hub": "a/b"}, {"hub": "a/b", "commit": "c", "directory": "d"}])
def test_a_reference_names_one_place(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="either hub and commit, or directory"):
        ModelReference(**wrong)
