"""The command that quantises: what it is, and what it says where it cannot run."""

from __future__ import annotations

import io
import os
import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.tensorrt_llm.gpus import GPUS
from spec_cascade_build.tensorrt_llm.inputs import find_inputs
from spec_cascade_build.tensorrt_llm.places import checkpoint_at
from spec_cascade_build.tensorrt_llm.plan import Command, plan_build
from spec_cascade_build.tensorrt_llm.quantise import main, quantisation_config
from spec_cascade_build.tensorrt_llm.running import working
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, COMMIT, LLAMA_1B, LLAMA_8B, checked, write_pair

if TYPE_CHECKING:
    from pathlib import Path


def test_each_model_is_quantised_by_a_command_of_its_own(tmp_path: Path) -> None:
    section = {"gpu": "B200", "quantise": "nvfp4", "quantise_drafter": "fp8", "kv_cache": "fp8", "calibration_size": 64}
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm=section)
    pair, found = checked(path)
    commands = plan_build(pair, found, tmp_path, tmp_path / "out").quantise
    partial = tmp_path / "out.building" / "partial"
    assert {role: command.arguments[1:] for role, command in commands.items()} == {
        "target": (
            *("-m", "spec_cascade_build.tensorrt_llm.quantise", f"{LLAMA_8B}@{COMMIT}", f"{partial}/quantise-target"),
            *("--format", "nvfp4", "--kv-cache", "fp8", "--dataset", "cnn_dailymail", "--samples", "64"),
        ),
        "drafter": (
            *("-m", "spec_cascade_build.tensorrt_llm.quantise", f"{LLAMA_1B}@{COMMIT}", f"{partial}/quantise-drafter"),
            *("--format", "fp8", "--kv-cache", "fp8", "--dataset", "cnn_dailymail", "--samples", "64"),
        ),
    }


def test_the_drafter_is_quantised_as_the_target_unless_it_says_otherwise(tmp_path: Path) -> None:
    pair, found = checked(write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8"}))
    assert [f.weights for f in found.formats] == ["FP8", "FP8"]
    assert set(plan_build(pair, found, tmp_path, tmp_path).quantise) == {"target", "drafter"}
    pair, found = checked(
        write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8", "quantise_drafter": "none"})
    )
    assert [f.weights for f in found.formats] == ["FP8", None]
    assert set(plan_build(pair, found, tmp_path, tmp_path).quantise) == {"target"}


def test_texts_on_this_machine_are_found_from_wherever_the_build_is_started(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8", "calibration_dataset": "texts"})
    pair, found = checked(path)
    arguments = plan_build(pair, found, tmp_path, tmp_path / "out").quantise["target"].arguments
    assert arguments[arguments.index("--dataset") + 1] == str(tmp_path / "texts")


def test_the_content_of_texts_on_this_machine_counts(tmp_path: Path) -> None:
    (tmp_path / "texts" / "more").mkdir(parents=True)
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8", "calibration_dataset": "texts"})
    pair = load_pair(path)
    assert pair.tensorrt_llm is not None
    found = []
    for text in ("one", "two"):
        (tmp_path / "texts" / "more" / "a.jsonl").write_text(text)
        inputs = find_inputs(pair, tmp_path, {}, GPUS["H100"], Console(file=io.StringIO()))
        found.append((inputs.key, inputs.quantisation("target", pair.tensorrt_llm)))
    assert found[0][0] != found[1][0]
    assert found[0][1] != found[1][1]


def test_a_finished_checkpoint_is_used_while_all_that_determines_it_is_the_same(tmp_path: Path) -> None:
    made = tmp_path / "out.building" / "partial" / "quantise-target"
    script = f"mkdir {made}; echo {{}} > {made}/config.json; echo run >> {tmp_path / 'runs'}"
    command = Command(name="quantise-target", title="quantising", arguments=("sh", "-c", script))

    def runs(identity: dict[str, Any], again: str) -> int:
        with working(tmp_path / "out", Console(file=io.StringIO())) as work:
            work.quantise("target", command, identity, tmp_path / again)
        assert (tmp_path / again / "config.json").read_text() == "{}\n"
        return len((tmp_path / "runs").read_text().splitlines())

    assert runs({"samples": 1}, "first") == 1
    assert runs({"samples": 1}, "second") == 1
    assert runs({"samples": 2}, "third") == 2
    (tmp_path / "out.building" / "target" / "config.json").write_text("[]")
    assert runs({"samples": 2}, "fourth") == 3


def test_a_file_system_without_hard_links_takes_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise PermissionError(1, "Operation not permitted", source)

    made = tmp_path / "out.building" / "partial" / "quantise-target"
    script = f"mkdir {made}; echo {{}} > {made}/config.json"
    command = Command(name="quantise-target", title="quantising", arguments=("sh", "-c", script))
    monkeypatch.setattr(os, "link", refuse)
    with working(tmp_path / "out", Console(file=io.StringIO())) as work:
        work.quantise("target", command, {}, tmp_path / "target")
    assert (tmp_path / "target" / "config.json").read_text() == "{}\n"


def test_a_quantisation_that_writes_nothing_has_failed(tmp_path: Path) -> None:
    command = Command(name="quantise-target", title="quantising", arguments=("true",))
    with (
        working(tmp_path / "out", Console(file=io.StringIO())) as work,
        pytest.raises(BuildError, match=r"quantise-target ended with exit status 0 and wrote no config\.json"),
    ):
        work.quantise("target", command, {}, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_without_modelopt_one_line_says_so(tmp_path: Path, bare: None) -> None:
    shutil.copytree(CHECKPOINTS / LLAMA_1B, tmp_path / "model")
    with pytest.raises(
        SystemExit, match=r"quantise: quantising needs NVIDIA's ModelOpt \(pip install nvidia-modelopt\)"
    ):
        main([str(tmp_path / "model"), str(tmp_path / "out"), "--format", "fp8"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "config"), [("fp8", "FP8_DEFAULT_CFG"), ("nvfp4", "NVFP4_DEFAULT_CFG")])
def test_the_configuration_is_modelopts(name: str, config: str) -> None:
    asked: list[Any] = []

    def update(base: dict[str, Any], kv: dict[str, Any]) -> dict[str, Any]:
        asked.append(kv)
        base["quant_cfg"].update(kv)
        return base

    mtq = SimpleNamespace(
        FP8_DEFAULT_CFG={"quant_cfg": {"fp8": 1}},
        NVFP4_DEFAULT_CFG={"quant_cfg": {"nvfp4": 1}},
        FP8_KV_CFG={"quant_cfg": {"kv": 1}},
        utils=SimpleNamespace(update_quant_cfg_with_kv_cache_quant=update),
    )
    assert quantisation_config(mtq, name, "auto") == getattr(mtq, config)
    assert asked == []
    assert quantisation_config(mtq, name, "fp8") == {"quant_cfg": {name: 1, "kv": 1}}
    # ModelOpt's own constant is as it was.
    assert getattr(mtq, config) == {"quant_cfg": {name: 1}}


@pytest.mark.parametrize("place", ["nowhere", "org/name", "org/name@", "name@commit"])
def test_a_place_that_is_none_is_named(place: str) -> None:
    with pytest.raises(BuildError, match=f"{place} is neither a directory nor organisation/name@commit"):
        checkpoint_at(place)
