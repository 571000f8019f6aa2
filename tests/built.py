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


def make_tiny(directory: Path) -> Path:
    """Build the same pair with a drafter that has learnt from its target: seconds of training, by the real recipe."""
    from spec_cascade_build.build import build
    from spec_cascade_build.drafter.make import make

    save_checkpoint(directory / "target")
    recipe = {
        "directory": "drafter",
        "layers": [0, 3],
        "head": 200,
        "text": {"answers": 200, "shard": 100, "batch_size": 32, "max_prompt_tokens": 4, "max_answer_tokens": 24},
        "training": {"steps": 60, "batch_size": 16, "learning_rate": 0.01, "evaluate_every": 20, "held_out": 0.1},
    }
    defaults = {"rule": "strict", "max_seq_len": 200}
    pair = write_pair(directory / "pair.yaml", drafter={"make": recipe}, defaults=defaults)
    console = Console(file=io.StringIO())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPEC_CASCADE_CACHE", str(directory / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        make(pair, directory / "work", console)
        build(pair, directory / "engine", console)
    return directory / "engine"
