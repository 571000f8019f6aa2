"""The kernels compile for a GPU, on a machine without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).parents[3]


def test_every_kernel_compiles_to_machine_code(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    # A cache of its own: an earlier build must not stand in for this one.
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.unit.verify.build_kernels"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    built = {line.split()[0] for line in run.stdout.splitlines()}
    assert built == {
        "summarise_tiles",
        "finish_rows",
        "sum_overlap",
        "decide",
        "sum_weights",
        "draw_token",
        "_uniforms_of_pairs",
        "_uniforms_of_round",
    }
