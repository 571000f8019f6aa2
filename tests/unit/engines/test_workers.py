"""OpenMP's workers go when they are told to: counted in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os
import time
from pathlib import Path

import torch

from spec_cascade.engines import open_engine

def threads():
    return len(os.listdir("/proc/self/task"))

def rest():
    # A worker that was told to go takes a moment to be gone.
    counts = []
    for _ in range(100):
        counts.append(threads())
        time.sleep(0.02)
    return min(counts)

torch.set_num_threads(2)
before = threads()
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
computed = threads()
from spec_cascade.engines.pytorch.workers import release_workers
release_workers()
print(before, computed, rest(), "libgomp" in Path("/proc/self/maps").read_text())
torch.ones(2000, 2000) @ torch.ones(2000, 2000)
print(threads())
engine = open_engine(ENGINE)
opened = rest()
release_workers()
print(opened, rest())
engine.close()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads as Linux shows them")
def test_workers_go_when_told_and_an_open_engine_leaves_none_behind(built_engine: Path) -> None:
    script = SCRIPT.replace("ENGINE", repr(str(built_engine)))
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300)
    (before, computed, released, is_gnu), (again,), (opened, still) = (
        line.split() for line in run.stdout.strip().splitlines()
    )
    if is_gnu != "True":
        pytest.skip("another OpenMP than GNU's")
    assert int(computed) > int(before), "there were workers"
    assert int(released) == int(before)
    assert int(again) == int(computed)
    assert opened == still, "whoever opened the engine has no workers left to release"
