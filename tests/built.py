"""A tiny engine directory, made by a real build."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from tests.unit.build.checkpoints import save_checkpoint, write_pair

if TYPE_CHECKING:
    from pathlib import Path


def build_tiny(directory: Path, *, tied: bool = True, **fields: Any) -> Path:
    """Build a random Llama with four layers and a drafter pruned from it; ``fields`` replace those of the pair file."""
    from spec_cascade_build.build import build

    save_checkpoint(directory / "target", tied=tied)
    pair = write_pair(directory / "pair.yaml", **fields)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEC_CASCADE_CACHE", str(directory / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        build(pair, directory / "engine", Console(file=io.StringIO()))
    return directory / "engine"
