"""Pair files of `engine: tensorrt_llm` over the published configurations beside this file."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console

from spec_cascade_build.pair import load_pair
from spec_cascade_build.tensorrt_llm.checked import check_pair

if TYPE_CHECKING:
    from collections.abc import Callable

    from spec_cascade.engines.tensorrt_llm.gpus import Gpu
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.checked import CheckedPair

CHECKPOINTS = Path(__file__).parent / "checkpoints"
SHIPPED = Path(__file__).parents[4] / "build_engines" / "configs"
PAIR_FILES = (
    "llama-3.3-70b-fp8-tp4",
    "llama-3.3-70b-fp8-tp8",
    "llama-3.1-8b",
    "qwen3-32b",
    "gemma-3-27b",
)
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_1B = "meta-llama/Llama-3.2-1B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
GEMMA_27B = "google/gemma-3-27b-it"
GEMMA_1B = "google/gemma-3-1b-it"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def pair_data(**changes: Any) -> dict[str, Any]:
    """Llama 3.1 8B and 3.2 1B on an H100; sections given are laid over its own, and None takes a field out."""
    data: dict[str, Any] = {
        "name": "llama",
        "engine": "tensorrt_llm",
        "target": {"hub": LLAMA_8B, "revision": COMMIT},
        "drafter": {"hub": LLAMA_1B, "revision": COMMIT},
        "defaults": {"draft_length": 4, "max_batch_size": 32, "max_seq_len": 8192},
        "tensorrt_llm": {"gpu": "H100"},
    }
    for name, value in changes.items():
        merged = name in ("defaults", "tensorrt_llm") and isinstance(value, dict) and isinstance(data[name], dict)
        data[name] = {**data[name], **value} if merged else value
    return {name: value for name, value in data.items() if value is not None}


def write_pair(path: Path, **changes: Any) -> Path:
    """Write `pair_data` into a file."""
    path.write_text(yaml.safe_dump(pair_data(**changes)), encoding="utf-8")
    return path


def checked(
    path: Path, configs: Path | None = CHECKPOINTS, present: Callable[[], list[Gpu]] | None = None
) -> tuple[Pair, CheckedPair]:
    """Read and check a pair file."""
    pair = load_pair(path)
    return pair, check_pair(pair, path, configs, Console(file=io.StringIO()), present)
