"""The programs of TensorRT-LLM are found, and what is missing is told all at once."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.survey import describe
from spec_cascade_build.tensorrt.tools import find_tools, interpreter_of, is_supported
from tests.unit.build.tensorrt.stage import set_version

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.build.tensorrt.stage import Stage


def test_all_is_found(stage: Stage) -> None:
    tools = find_tools("examples", stage.root)
    assert tools.builder == str(stage.root / "bin" / "trtllm-build")
    assert (tools.python, tools.examples, tools.version) == (sys.executable, stage.examples, "1.2.1")
    assert (tools.modelopt, tools.gpu) == ("0.37.0", "NVIDIA H100 80GB HBM3, compute capability 9.0")
    tools.check()


def test_a_machine_without_a_gpu_compiles_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    (stage.played / "gpu.json").unlink()
    with pytest.raises(BuildError, match=r"cannot be built here: it has no GPU\. spec-cascade build --check and"):
        find_tools("examples", stage.root).check()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(BuildError, match=r"it has no GPU \(pynvml is not installed, which finds it\)"):
        find_tools("examples", stage.root).check()


def test_nothing_is_found(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stage.root / "nothing"))
    tools = find_tools("nothing", stage.root)
    with pytest.raises(BuildError, match=r"trtllm-build is not on PATH.*0\.17 to 1\.2\.x; no conversion scripts at"):
        tools.check()


def test_a_builder_whose_python_has_no_package_is_refused(stage: Stage) -> None:
    set_version(stage.root, None)
    with pytest.raises(BuildError, match=r"which runs .*/trtllm-build, has no package tensorrt_llm"):
        find_tools("examples", stage.root).check()


def test_a_release_without_compiled_engines_is_refused(stage: Stage) -> None:
    set_version(stage.root, "1.3.0rc21")
    with pytest.raises(BuildError, match=r"TensorRT-LLM 1\.3\.0rc21 is not supported: must be 0\.17 to 1\.2\.x"):
        find_tools("examples", stage.root).check()


@pytest.mark.parametrize(
    ("version", "supported"),
    [("0.16.0", False), ("0.17.0.post1", True), ("1.0.0", True), ("1.2.0rc8", True), ("1.2.1", True), ("2.0", False)],
)
def test_the_span_of_versions(version: str, supported: bool) -> None:
    assert is_supported(version) is supported


def test_the_plan_can_be_read_where_nothing_is_installed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stage.root / "nothing"))
    shutil.rmtree(stage.examples)
    text = describe(stage.plan())
    assert "by TensorRT-LLM (not found)" in text
    assert "cannot be run here: trtllm-build is not on PATH" in text
    assert f"command  {sys.executable} {stage.examples}/models/core/llama/convert_checkpoint.py" in text
    assert "command  trtllm-build --checkpoint_dir=" in text


def test_older_releases_keep_their_scripts_one_directory_higher(stage: Stage) -> None:
    (stage.examples / "models" / "core" / "llama").rename(stage.examples / "llama")
    tools = find_tools("examples", stage.root)
    assert tools.converter("llama") == stage.examples / "llama" / "convert_checkpoint.py"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("#!/opt/venv/bin/python3.12", "/opt/venv/bin/python3.12"),
        ("#!/usr/bin/env python-that-is-nowhere", "python-that-is-nowhere"),
        ("#!/bin/sh", sys.executable),
        ("\x7fELF", sys.executable),
        ("", sys.executable),
    ],
)
def test_a_console_script_names_its_python(tmp_path: Path, line: str, expected: str) -> None:
    (tmp_path / "script").write_text(f"{line}\n", encoding="utf-8")
    assert interpreter_of(tmp_path / "script") == expected
