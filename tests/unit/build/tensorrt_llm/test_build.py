"""A whole build with stand-ins for what needs a GPU, and what a machine without one is told."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console
from transformers import AutoTokenizer

from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.model_reference import ModelReference
from spec_cascade.errors import ConfigError, EngineError
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.tensorrt_llm.machine import check_machine
from spec_cascade_build.tensorrt_llm.warm_up import warm_up
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_tokenizer
from tests.unit.build.tensorrt_llm.pairs import write_pair

if TYPE_CHECKING:
    from pathlib import Path

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


def test_a_start_that_fails_is_shown_and_leaves_nothing(pair: Path, tmp_path: Path, stand_in: StandIn) -> None:
    (stand_in.directory / "fail").touch()
    with pytest.raises(BuildError) as caught:
        build(pair, tmp_path / "out", quiet())
    assert str(caught.value) == (
        "starting TensorRT-LLM once, to fill the autotuner's cache failed with status 1; its last lines:\n"
        "CUDA out of memory"
    )
    assert not (tmp_path / "out").exists()


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


def test_a_machine_without_a_gpu_is_told_all_that_is_missing(tmp_path: Path, bare: None) -> None:
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8"})
    with pytest.raises(BuildError) as caught:
        build(path, tmp_path / "out", quiet())
    assert str(caught.value) == (
        "this machine cannot build for engine tensorrt_llm: tensorrt_llm is not installed; it has no GPU (pynvml is "
        "not installed, which finds it); nvidia-modelopt is not installed, which quantise needs. spec-cascade build "
        "--check and --dry-run work without"
    )
    assert not (tmp_path / "out").exists()


def test_a_machine_without_a_driver_has_no_gpu(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.gpus(None)
    with pytest.raises(BuildError, match=r"engine tensorrt_llm: it has no GPU\. spec-cascade build --check"):
        build(write_pair(tmp_path / "pair.yaml"), tmp_path / "out", quiet())


def test_another_line_of_tensorrt_llm_is_refused(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.version("1.3.0")
    with pytest.raises(BuildError, match=r"tensorrt_llm is 1\.3\.0, not 1\.2\.x"):
        build(write_pair(tmp_path / "pair.yaml"), tmp_path / "out", quiet())


def test_too_few_gpus_are_refused(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.gpus(2)
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"tensor_parallel_size": 4})
    with pytest.raises(BuildError, match="it has 2 GPUs where tensor_parallel_size is 4"):
        build(path, tmp_path / "out", quiet())


def test_a_smaller_gpu_than_the_planned_one_is_refused(tmp_path: Path, stand_in: StandIn) -> None:
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"gpu": "H200"})
    with pytest.raises(ConfigError) as caught:
        build(path, tmp_path / "out", quiet())
    assert str(caught.value) == (
        f"{path}: tensorrt_llm.gpu = 'H200' is not allowed: must be this, or the GPU that is here: NVIDIA H100 80GB "
        "HBM3, 79.6 GiB, compute capability 9.0"
    )


def test_a_machine_that_has_what_it_takes_passes(tmp_path: Path, stand_in: StandIn) -> None:
    section = load_pair(write_pair(tmp_path / "pair.yaml")).tensorrt_llm
    assert section is not None
    assert [gpu.name for gpu in check_machine(section)] == ["NVIDIA H100 80GB HBM3"]


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
