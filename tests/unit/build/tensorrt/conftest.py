"""A stage on which TensorRT-LLM 1.2.1 is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.build.tensorrt.stage import Events, Stage, set_stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """Two checkpoints, a pair of them, and the programs."""
    return set_stage(tmp_path, monkeypatch)


@pytest.fixture
def events(stage: Stage) -> Iterator[Events]:
    """What the programs tell."""
    found = Events(stage)
    yield found
    found.close()
