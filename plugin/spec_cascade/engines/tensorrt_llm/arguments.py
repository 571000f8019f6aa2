"""The arguments of TensorRT-LLM's LLM API, as an engine directory keeps them."""

from __future__ import annotations

from typing import Any


def placed_arguments(arguments: dict[str, Any], target: str, drafter: str) -> dict[str, Any]:
    """The arguments with both models replaced by directories; a revision is for the hub, and means nothing then."""
    placed = {name: value for name, value in arguments.items() if name != "revision"}
    return placed | {
        "model": target,
        "speculative_config": {**arguments["speculative_config"], "speculative_model": drafter},
    }
