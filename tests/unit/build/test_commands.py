"""The verb `build` of the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.engines.manifest import Manifest
from spec_cascade.errors import SpecCascadeError
from tests.unit.build.checkpoints import write_pair

if TYPE_CHECKING:
    from pathlib import Path


def test_build_says_what_it_did_and_the_second_time_that_it_had_nothing_to_do(app: typer.Typer, pair: Path) -> None:
    output = pair.parent / "out"
    first = CliRunner().invoke(app, ["build", str(pair), "--output", str(output)], catch_exceptions=False)
    assert first.exit_code == 0
    assert f"{output}: built" in first.output
    second = CliRunner().invoke(app, ["build", str(pair), "--output", str(output)], catch_exceptions=False)
    assert f"{output}: up to date" in second.output
    third = CliRunner().invoke(app, ["build", str(pair), "--output", str(output), "--force"], catch_exceptions=False)
    assert f"{output}: built" in third.output


def test_the_default_output_is_named_after_the_pair(
    app: typer.Typer, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app, ["build", str(pair)], catch_exceptions=False).exit_code == 0
    assert Manifest.read(tmp_path / "engines" / "tiny").name == "tiny"


def test_a_wrong_pair_file_is_an_error_raised_on_purpose(app: typer.Typer, pair: Path) -> None:
    result = CliRunner().invoke(app, ["build", str(write_pair(pair, engine="vllm"))])
    assert isinstance(result.exception, SpecCascadeError)
    assert "engine = 'vllm' is not allowed: must be 'pytorch'" in str(result.exception)


def test_the_command_line_ends_with_one_line_and_status_1(pair: Path) -> None:
    write_pair(pair, dtype="float8")
    done = subprocess.run(
        [sys.executable, "-c", "from spec_cascade.cli import main; main()", "build", str(pair)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert done.returncode == 1
    assert done.stderr == f"spec-cascade: {pair}: dtype = 'float8' is not allowed: must be 'bfloat16' or 'float32'\n"
