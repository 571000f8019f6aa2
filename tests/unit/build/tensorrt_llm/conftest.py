"""The command, and a machine that looks as if TensorRT-LLM and GPUs were there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.unit.build.tensorrt_llm.machine import StandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def stand_in(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Modules by the names of TensorRT-LLM and of NVML's binding, for this process and for those that it starts."""
    directory: Path = tmp_path_factory.mktemp("stand-in")
    yield StandIn.install(directory, monkeypatch)
    sys.modules.pop("pynvml", None)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which none of these is installed."""
    for name in ("tensorrt_llm", "pynvml", "modelopt"):
        monkeypatch.setitem(sys.modules, name, None)
