"""What the engines' tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.built import build_tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def built_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine directory with a model as its drafter."""
    return build_tiny(tmp_path_factory.mktemp("built"))
