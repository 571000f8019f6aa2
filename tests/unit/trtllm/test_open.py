"""From a pair file to an answer: a build with stand-ins for what needs a GPU, opened on the fake."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM

from spec_cascade import open_engine
from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.manifest import LLM_CONFIG, FileEntry, Manifest
from spec_cascade.engines.tensorrt_llm import delivery, injection
from spec_cascade.engines.tensorrt_llm import open as opening
from spec_cascade.engines.tensorrt_llm.delivery import AUTOTUNER_VARIABLE
from spec_cascade.engines.tensorrt_llm.gpus import Gpu
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


@pytest.mark.parametrize(
    ("package", "said"),
    [
        (None, "TensorRT-LLM is not installed"),
        ("import a_library_of_its", r"TensorRT-LLM cannot be imported: ModuleNotFoundError: .*a_library_of_its"),
    ],
)
def test_an_engine_of_several_gpus_says_whether_it_lacks_tensorrt_llm_or_a_part_of_it(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str | None, said: str
) -> None:
    shutil.copytree(directory, tmp_path / "engine")
    manifest = json.loads((tmp_path / "engine" / "manifest.json").read_text())
    manifest["tensorrt_llm"]["tensor_parallel_size"] = 2
    (tmp_path / "engine" / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(delivery, "hook_state", lambda: "installed")
    monkeypatch.delitem(sys.modules, "mpi4py.MPI", raising=False)
    if package is not None:
        (tmp_path / "site" / "tensorrt_llm").mkdir(parents=True)
        (tmp_path / "site" / "tensorrt_llm" / "__init__.py").write_text(package)
        monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(EngineError, match=said):
        open_engine(_pointing_to(tmp_path / "engine", str(directory.parent / "target")))


def test_an_engine_that_tensorrt_llm_refuses_is_an_error_with_its_reason(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMI_RANK", "0")
    shutil.copytree(played, tmp_path / "engine")
    arguments = yaml.safe_load((played / LLM_CONFIG).read_text())
    _write_arguments(tmp_path / "engine", {**arguments, "no_such_argument": 1})
    with pytest.raises(EngineError, match=r"(?s)TensorRT-LLM does not start: .*no_such_argument") as caught:
        open_engine(_pointing_to(tmp_path / "engine", str(played.parent / "target")))
    assert caught.value.__cause__ is not None
    assert injection.active() is None
    assert os.environ["PMI_RANK"] == "0"


def test_the_mpi_job_that_triton_was_started_in_is_left_while_an_engine_is_open(
    played: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = ("OMPI_COMM_WORLD_RANK", "PMIX_NAMESPACE", "PMIX_SERVER_URI2", "PMI_SIZE", "OMPI_MCA_orte_x", "ORTE_X")
    settings = ("OMPI_MCA_btl", "PMIX_MCA_gds", "PMIX_INSTALL_PREFIX")
    for name in (*job, *settings):
        monkeypatch.setenv(name, "as it was")
    seen: list[set[str]] = []

    def noting(*args: Any, **kwargs: Any) -> delivery.Delivery:
        seen.append(set(os.environ))
        return delivery.deliver(*args, **kwargs)

    monkeypatch.setattr(opening, "deliver", noting)
    engine = open_engine(played)
    try:
        (present,) = seen
        assert present.isdisjoint(job)
        assert present.issuperset(settings)
    finally:
        engine.close()
    assert {os.environ[name] for name in (*job, *settings)} == {"as it was"}


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
    _write_arguments(tmp_path / "engine", [1])
    with pytest.raises(EngineError, match="is not a mapping"):
        open_engine(tmp_path / "engine")


def _write_arguments(directory: Path, arguments: Any) -> None:
    """Other arguments of the LLM API, as if the build had written them."""
    (directory / LLM_CONFIG).write_text(yaml.safe_dump(arguments))
    manifest = json.loads((directory / "manifest.json").read_text())
    entry = FileEntry.of(directory / LLM_CONFIG)
    manifest["files"][LLM_CONFIG] = {"sha256": entry.sha256, "size": entry.size}
    (directory / "manifest.json").write_text(json.dumps(manifest))
