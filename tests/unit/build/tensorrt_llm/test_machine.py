"""What a machine needs to build for TensorRT-LLM, and what one is told that lacks some of it."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from spec_cascade.engines.tensorrt_llm.gpus import present_gpus
from spec_cascade.errors import ConfigError
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.tensorrt_llm.machine import check_machine
from tests.unit.build.tensorrt_llm.pairs import write_pair

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.build.tensorrt_llm.machine import StandIn

GPUS = [{"name": str(index), "memory": 1, "capability": [9, 0], "uuid": f"GPU-{index}f"} for index in range(3)]


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


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


@pytest.mark.parametrize("version", ["1.3.0", "1.1.0", "1.2.0rc5", "1.2.0rc7.post1", "1.2.0.dev2025112300"])
def test_another_line_of_tensorrt_llm_is_refused(tmp_path: Path, stand_in: StandIn, version: str) -> None:
    stand_in.version(version)
    with pytest.raises(BuildError, match=rf"tensorrt_llm is {re.escape(version)}, not 1\.2\.x from 1\.2\.0rc8 on"):
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
        f"{path}: tensorrt_llm.gpu = 'H200' is not allowed: must be H100 or this: the GPU that is here is NVIDIA H100 "
        "80GB HBM3, 79.6 GiB, compute capability 9.0"
    )


def test_a_gpu_without_a_name_here_is_this(tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.gpus(1, memory=20 << 30)
    with pytest.raises(ConfigError, match=r"must be this: the GPU that is here is NVIDIA H100 80GB HBM3, 20\.0 GiB"):
        build(write_pair(tmp_path / "pair.yaml"), tmp_path / "out", quiet())


@pytest.mark.parametrize("version", ["1.2.0rc8", "1.2.0rc10", "1.2.0", "1.2.0.post1", "1.2.1", "1.2.1.post2"])
def test_what_reads_the_file_is_allowed(tmp_path: Path, stand_in: StandIn, version: str) -> None:
    stand_in.version(version)
    section = load_pair(write_pair(tmp_path / "pair.yaml")).tensorrt_llm
    assert section is not None
    assert check_machine(section)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        *((None, "012"), ("0", "0"), ("2,0", "20"), (" 1 , 2 ", "12"), ("0,3,1", "0"), ("-1", ""), ("", "")),
        *(("GPU-1f", "1"), ("GPU-2", "2"), ("GPU-", ""), ("GPU-7", ""), ("MIG-a,0", "20"), ("MIG-b", "")),
    ],
)
def test_gpus_that_cuda_hides_do_not_count(
    stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, visible: str | None, names: str
) -> None:
    stand_in.write("gpus.json", json.dumps([*GPUS[:2], {**GPUS[2], "mig": "MIG-a"}]))
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "".join(gpu.name for gpu in present_gpus()) == names


def test_a_driver_that_fails_later_has_no_gpu(stand_in: StandIn) -> None:
    stand_in.write("gpus.json", json.dumps([{**GPUS[0], "lost": True}]))
    assert present_gpus() == []


def test_a_machine_that_has_what_it_takes_passes(tmp_path: Path, stand_in: StandIn) -> None:
    section = load_pair(write_pair(tmp_path / "pair.yaml")).tensorrt_llm
    assert section is not None
    assert [gpu.name for gpu in check_machine(section)] == ["NVIDIA H100 80GB HBM3"]
