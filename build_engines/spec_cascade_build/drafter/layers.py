"""Which of the target's layers a drafter begins with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.errors import ConfigError
from spec_cascade_build.drafter.agreement import agreement
from spec_cascade_build.drafter.student import Head, model_layers
from spec_cascade_build.recipe import LayerChoice

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.text import Answer


def spread(count: int, total: int) -> tuple[int, ...]:
    """``count`` of ``total`` layers at even distances, both ends among them."""
    return tuple(round(i * (total - 1) / (count - 1)) for i in range(count))


def most_important(importance: Sequence[float], count: int) -> tuple[int, ...]:
    """Both ends, and those between them that are missed the most; of equals the earlier."""
    inner = sorted(range(1, len(importance) - 1), key=lambda layer: -importance[layer])
    return tuple(sorted([0, len(importance) - 1, *inner[: count - 2]]))


def importance(
    target: PreTrainedModel,
    head: Head,
    answers: Sequence[Answer],
    batch_size: int,
    advance: Callable[[int], None],
) -> list[float]:
    """How much of its agreement with itself a target loses without each of its layers.

    Args:
        target: With an attention that runs outside the engine.
        head: Its head.
        answers: Its text.
        batch_size: Answers at a time.
        advance: Told 1 after each layer.
    """
    layers = model_layers(target)
    lost = []
    for left_out in range(len(layers)):
        target.base_model.layers = torch.nn.ModuleList(layer for i, layer in enumerate(layers) if i != left_out)
        target.config.num_hidden_layers = len(layers) - 1
        try:
            lost.append(1 - agreement(target, head, head, answers, batch_size).overlap)
        finally:
            target.base_model.layers = layers
            target.config.num_hidden_layers = len(layers)
        advance(1)
    return lost


def check_layers(layers: Sequence[int] | LayerChoice, total: int) -> None:
    """Verify that the target has the layers that a recipe asks for.

    Raises:
        ConfigError: It has not.
    """
    if isinstance(layers, LayerChoice):
        if layers.count > total:
            raise ConfigError("drafter.make.layers.count", layers.count, f"at most {total}, the target's layers")
    elif layers[-1] >= total:
        raise ConfigError("drafter.make.layers", list(layers), f"layers that the target has: 0 to {total - 1}")
