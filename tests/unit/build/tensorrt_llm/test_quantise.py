"""The command that quantises: what it is, and what it says where it cannot run."""

from __future__ import annotations

import shutil
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.places import checkpoint_at
from spec_cascade_build.tensorrt_llm.plan import plan_build
from spec_cascade_build.tensorrt_llm.quantise import main, quantisation_config
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, COMMIT, LLAMA_1B, LLAMA_8B, checked, write_pair

if TYPE_CHECKING:
    from pathlib import Path


def test_each_model_is_quantised_by_a_command_of_its_own(tmp_path: Path) -> None:
    section = {"gpu": "B200", "quantise": "nvfp4", "quantise_drafter": "fp8", "kv_cache": "fp8", "calibration_size": 64}
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm=section)
    pair, found = checked(path)
    commands = plan_build(pair, found, tmp_path, tmp_path / "out").quantise
    assert {role: command.arguments[1:] for role, command in commands.items()} == {
        "target": (
            *("-m", "spec_cascade_build.tensorrt_llm.quantise", f"{LLAMA_8B}@{COMMIT}", str(tmp_path / "out/target")),
            *("--format", "nvfp4", "--kv-cache", "fp8", "--dataset", "cnn_dailymail", "--samples", "64"),
        ),
        "drafter": (
            *("-m", "spec_cascade_build.tensorrt_llm.quantise", f"{LLAMA_1B}@{COMMIT}", str(tmp_path / "out/drafter")),
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
