"""A copy of a model whose linear layers keep their weights in eight bits: half the memory to read for a token.

Only weights are rounded, each row to its own scale; what flows between layers stays as it is. A drafter may be rounded
however it likes: the rows that it is judged by are the rows that it drew from.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

_LARGEST = 127


class Int8Linear(torch.nn.Module):
    """A linear layer with symmetric eight-bit weights, a scale for each output."""

    weight: Tensor
    scales: Tensor
    bias: Tensor | None

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(1) / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        rounded = (weight / scales[:, None]).round().to(torch.int8)
        self.register_buffer("weight", rounded)
        self.register_buffer("scales", scales.to(linear.weight.dtype))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs ``[..., N]`` of inputs ``[..., K]``."""
        rows = inputs.reshape(-1, inputs.shape[-1])
        output = torch._weight_int8pack_mm(rows, self.weight, self.scales)
        if self.bias is not None:
            output = output + self.bias
        return output.view(*inputs.shape[:-1], len(self.weight))


def int8_model(model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose linear layers, the output head among them, are `Int8Linear`."""
    copy: PreTrainedModel = deepcopy(model)
    for module in list(copy.modules()):
        for name, child in module.named_children():
            if isinstance(child, torch.nn.Linear):
                setattr(module, name, Int8Linear(child))
    return copy
