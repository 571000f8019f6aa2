"""Small recipes of drafters, and what is left of a making."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.unit.build.checkpoints import write_pair

TEXT = {"answers": 40, "shard": 16, "batch_size": 8, "max_prompt_tokens": 4, "max_answer_tokens": 24}
TRAINING = {"steps": 60, "batch_size": 4, "warmup": 5, "evaluate_every": 10, "held_out": 0.1, "learning_rate": 3e-3}
RECIPE = {"directory": "drafter", "layers": [0, 3], "head": 200, "text": TEXT, "training": TRAINING}


def quiet() -> Console:
    return Console(file=io.StringIO())


def pair_of(directory: Path, **recipe: Any) -> Path:
    return write_pair(directory / "pair.yaml", drafter={"make": {**RECIPE, **recipe}})


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return {n: t for path in sorted(directory.glob("model-*.safetensors")) for n, t in load_file(path).items()}


def shard(work: Path, number: int) -> Path:
    """A file of the one text that was written there, or that is to be."""
    (path,) = work.glob(f"text/*/{number:05d}.safetensors")
    return path
