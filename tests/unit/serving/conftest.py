"""What faces Triton, imported with Triton's names played."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.serving.played_triton import InferenceRequest, played


@pytest.fixture
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(InferenceRequest, "made", [])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", played())


@pytest.fixture
def backend(_played: None) -> Iterator[Any]:
    yield from imported("spec_cascade.serving.backend")


@pytest.fixture
def registries(_played: None) -> Iterator[Any]:
    yield from imported("spec_cascade.serving.registry")


def imported(name: str) -> Iterator[Any]:
    """A module that imports the played names."""
    sys.modules.pop(name, None)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)
