"""The drafter while it learns: some layers of the target, and the target's own embedding and head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear
from transformers import AutoModelForCausalLM

from spec_cascade_build.checkpoints import pruned_config, shared_tensors
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

TRAINED_ATTENTION = "sdpa"


@dataclass(frozen=True, slots=True)
class Head:
    """The target's head over the tokens that the drafter can propose.

    Attributes:
        weight: ``[Vd, H]``.
        bias: ``[Vd]`` or None.
        token_ids: Which tokens these are, ``[Vd]``; None is all.
    """

    weight: Tensor
    bias: Tensor | None
    token_ids: Tensor | None

    @classmethod
    def of(cls, target: PreTrainedModel, vocab_size: int, token_ids: Tensor | None) -> Head:
        """Of a target, over ``token_ids`` or all tokens that exist."""
        whole = target.get_output_embeddings()
        rows = slice(vocab_size) if token_ids is None else token_ids.to(whole.weight.device)
        bias = getattr(whole, "bias", None)
        return cls(whole.weight.detach()[rows], None if bias is None else bias.detach()[rows], token_ids)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., Vd]`` of last hidden states ``[..., H]``."""
        return linear(hidden.to(self.weight.dtype), self.weight, self.bias)

    def columns(self, row: Tensor) -> Tensor:
        """The drafter's columns ``[..., Vd]`` of rows ``[..., V]``."""
        return row if self.token_ids is None else row.index_select(-1, self.token_ids.to(row.device))


def make_student(target: PreTrainedModel, layers: Sequence[int]) -> PreTrainedModel:
    """A model of some of the target's layers, in float32; embedding and head are the target's own and do not learn.

    Raises:
        BuildError: The target's layers cannot be told from its tensor names.
    """
    weights = target.state_dict()
    names = shared_tensors(sorted(weights), layers, target.config.num_hidden_layers)
    student: PreTrainedModel = AutoModelForCausalLM.from_config(
        pruned_config(target.config, layers), dtype=torch.float32, attn_implementation=TRAINED_ATTENTION
    )
    missing = student.load_state_dict(
        {name: weights[source] for name, source in names.items()}, strict=False
    ).missing_keys
    if any(name in learning(student) for name in missing):
        raise BuildError(f"the target has no tensor for the drafter's {min(missing)}")
    student.to(target.device)
    student.set_input_embeddings(target.get_input_embeddings())
    student.set_output_embeddings(target.get_output_embeddings())
    learns = learning(student)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(name in learns)
    # Not in training mode: dropout would draw from a generator that no checkpoint keeps.
    return student.eval()


def learning(student: PreTrainedModel) -> dict[str, Tensor]:
    """What learns, by name: everything but the embedding and the head."""
    shared = {id(student.get_input_embeddings().weight)}
    shared |= {id(parameter) for parameter in student.get_output_embeddings().parameters()}
    return {name: weight for name, weight in student.named_parameters() if id(weight) not in shared}


def last_hidden(model: PreTrainedModel, token_ids: Tensor) -> Tensor:
    """Last hidden states ``[B, T, H]`` of tokens ``[B, T]``, shorter texts being padded behind their ends."""
    # No mask: under causal attention no token sees the padding behind it.
    output: Tensor = model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
    return output


def model_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The list that a model runs its layers from; all families that the engine runs keep it under one name."""
    layers: torch.nn.ModuleList = model.base_model.layers
    return layers


@torch.no_grad()
def check_head(target: PreTrainedModel, head: Head, token_ids: Tensor) -> None:
    """Verify on a text ``[T]`` that a target's logits are what its head says, and nothing is done to them behind it.

    Raises:
        BuildError: They are scaled, capped or else changed.
    """
    rows = target(input_ids=token_ids[None], use_cache=False).logits[..., : len(head.weight)]
    if not torch.allclose(rows, head(last_hidden(target, token_ids[None])), rtol=0.05, atol=0.05):
        raise BuildError(f"{type(target).__name__} changes its head's logits, which drafter make does not teach")
