"""From a pair file to an answer: a build with stand-ins for what needs a GPU, opened on the fake."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from spec_cascade import open_engine
from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.manifest import LLM_CONFIG, FileEntry, Manifest
from spec_cascade.engines.tensorrt_llm import injection
from spec_cascade.engines.tensorrt_llm import open as opening
from spec_cascade.engines.tensorrt_llm.gpus import Gpu
from spec_cascade.engines.tensorrt_llm.open import AUTOTUNER_VARIABLE
from spec_cascade.errors import EngineError
from spec_cascade_build.build import build
from tests.trtllm_fake import hugging_face, installed, register
from tests.unit.build.checkpoints import VOCAB, save_checkpoint
from tests.unit.build.tensorrt_llm.machine import StandIn
from tests.unit.build.tensorrt_llm.pairs import write_pair

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLER = "spec_cascade.engines.tensorrt_llm.sampler"


@pytest.fixture(scope="module", params=["argmax", "sampled"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine directory."""
    place = tmp_path_factory.mktemp("pair")
    save_checkpoint(place / "target", vocab=VOCAB)
    save_checkpoint(place / "drafter", layers=1, vocab=VOCAB)
    pair = write_pair(
        place / "pair.yaml",
        name="tiny",
        target={"path": "target"},
        drafter={"path": "drafter"},
        defaults={"max_seq_len": 128, "rule": "token_v3:alpha=0.5", "draft_mode": request.param},
    )
    with pytest.MonkeyPatch.context() as patch:
        StandIn.install(tmp_path_factory.mktemp("stand-in"), patch)
        build(pair, place / "engine", Console(file=io.StringIO()))
    sys.modules.pop("pynvml", None)
    return place / "engine"


@pytest.fixture
def played(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory, on a machine with the fake."""
    for name in (AUTOTUNER_VARIABLE, "TLLM_WORKER_USE_SINGLE_PROCESS"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop(SAMPLER, None)
    with installed("s15"):
        for role in ("target", "drafter"):
            path = directory.parent / role
            register(str(path), hugging_face(AutoModelForCausalLM.from_pretrained(path).eval(), max_seq_len=128))
        yield directory
    sys.modules.pop(SAMPLER, None)


def test_a_directory_answers_by_its_rule_and_leaves_nothing_behind(played: Path) -> None:
    engine = open_engine(played)
    try:
        manifest = Manifest.read(played)
        assert engine.limits.max_draft_length == manifest.defaults.draft_length
        sampling = SamplingParams(seed=3, max_tokens=20, ignore_eos=True)
        outputs = list(engine.submit(GenerationRequest(prompt_ids=(1, 2, 3), sampling=sampling)))
    finally:
        engine.close()
    assert sum(len(output.token_ids) for output in outputs) == 20
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    assert outputs[-1].statistics is not None
    assert outputs[-1].statistics.rule == "token_v3:alpha=0.5,strict_prefix_tokens=4"
    assert outputs[-1].statistics.num_draft_tokens > 0
    assert injection.active() is None
    assert AUTOTUNER_VARIABLE not in os.environ  # there is no GPU here, let alone the one of the cache


def test_the_builds_tactics_are_handed_over_in_a_copy(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Manifest.read(played).tensorrt_llm.autotuner_gpu  # type: ignore[union-attr]
    monkeypatch.setattr(opening, "present_gpus", lambda: [Gpu(str(gpu), 1, (9, 0))])
    engine = open_engine(played)
    try:
        place = Path(os.environ[AUTOTUNER_VARIABLE])
        assert place.name == "cache.json"
        assert [part.name for part in place.parent.iterdir()] == ["cache.rank0.json"]
        assert played not in place.parents
    finally:
        engine.close()
    assert not place.parent.exists()
    assert AUTOTUNER_VARIABLE not in os.environ


def test_an_engine_of_which_nobody_verifies_is_not_opened(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(injection, "activate", lambda *_, **__: None)
    with pytest.raises(EngineError):
        open_engine(played)
    assert injection.active() is None


def test_a_machine_without_tensorrt_llm_says_so(directory: Path) -> None:
    with pytest.raises(EngineError, match="TensorRT-LLM is not installed"):
        open_engine(directory)


def test_a_model_that_has_gone_is_named(played: Path, tmp_path: Path) -> None:
    shutil.copytree(played, tmp_path / "engine")
    with pytest.raises(EngineError, match=r"target.*holds no checkpoint"):
        open_engine(_pointing_to(tmp_path / "engine", str(tmp_path / "target")))


def _pointing_to(directory: Path, target: str) -> Path:
    """The same directory with another place of the target."""
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["tensorrt_llm"]["target"]["directory"] = target
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_arguments_that_are_no_mapping_are_refused(played: Path, tmp_path: Path) -> None:
    shutil.copytree(played, tmp_path / "engine")
    (tmp_path / "engine" / LLM_CONFIG).write_text(yaml.safe_dump([1]))
    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    entry = FileEntry.of(tmp_path / "engine" / LLM_CONFIG)
    manifest["files"][LLM_CONFIG] = {"sha256": entry.sha256, "size": entry.size}
    (tmp_path / "engine" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(EngineError, match="is not a mapping"):
        open_engine(tmp_path / "engine")
