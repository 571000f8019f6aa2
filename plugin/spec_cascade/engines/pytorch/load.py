"""From an engine directory to the two models, sharing what can be shared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spec_cascade.engines.manifest import SHARED_TENSORS, TRIMMED_HEAD, WEIGHTS
from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""What models compute in, by the names of pair files and manifests."""
TOKEN_IDS = "token_ids"


def load_target(directory: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a model from its directory with our attention.

    Raises:
        EngineError: The files are there but make no model.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=ATTENTION,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"{directory.name}/ cannot be loaded: {error}") from error
    return model.to(device)


def load_drafter(directory: Path, target: PreTrainedModel, *, whole_head: bool = False) -> PreTrainedModel:
    """Load the drafter; tensors named in ``shared_tensors.json`` are the target's own, in the same memory.

    Args:
        directory: The drafter's directory.
        target: The target.
        whole_head: Leave the head as wide as the vocabulary, even where the drafter is to have a trimmed one.

    Raises:
        EngineError: A tensor is neither the drafter's nor the target's, or the trimmed head's tokens are none.
    """
    drafter = _whole_drafter(directory, target)
    token_ids = None if whole_head else head_tokens(directory, logits_width(drafter))
    if token_ids is not None:
        trim_head(drafter, token_ids)
    return drafter


def head_tokens(directory: Path, vocab_size: int | None = None) -> Tensor | None:
    """The tokens that a drafter with a trimmed head knows, int64 ``[Vd]``, on the CPU; None where its head is whole.

    Args:
        directory: The drafter's directory.
        vocab_size: What the ids must be below; None does not ask.

    Raises:
        EngineError: The file holds no such tokens.
    """
    path = directory / TRIMMED_HEAD
    if not path.is_file():
        return None
    name = f"{directory.name}/{TRIMMED_HEAD}"
    try:
        token_ids = load_file(path)[TOKEN_IDS]
    except (KeyError, SafetensorError) as error:
        raise EngineError(f"{name} has no tensor {TOKEN_IDS} that can be read: {error}") from error
    are_ids = token_ids.dtype == torch.int64 and token_ids.dim() == 1 and len(token_ids) > 0
    if not are_ids or token_ids[0] < 0 or bool((token_ids.diff() <= 0).any()):
        raise EngineError(f"{name}: {TOKEN_IDS} are not one row of distinct int64 token ids in ascending order")
    if vocab_size is not None and token_ids[-1] >= vocab_size:
        raise EngineError(f"{name}: {TOKEN_IDS} has {token_ids[-1]}, the vocabulary ends before {vocab_size}")
    return token_ids


def trim_head(model: PreTrainedModel, token_ids: Tensor) -> None:
    """Keep the rows ``token_ids`` ``[Vd]`` of a model's output head, in memory of their own: logits become Vd wide."""
    head = model.get_output_embeddings()
    rows = {name: tensor.detach()[token_ids.to(tensor.device)] for name, tensor in head.named_parameters()}
    trimmed = torch.nn.Linear(head.in_features, len(token_ids), bias="bias" in rows, device="meta")
    trimmed.load_state_dict(rows, assign=True)
    model.set_output_embeddings(trimmed)
    # Or the next `tie_weights` would put the input embedding in its place.
    model.config.tie_word_embeddings = False


def logits_width(model: PreTrainedModel) -> int:
    """Tokens that a model has logits for, padding of the vocabulary included."""
    return int(model.get_output_embeddings().weight.shape[0])


def _whole_drafter(directory: Path, target: PreTrainedModel) -> PreTrainedModel:
    shared_path = directory / SHARED_TENSORS
    if not shared_path.is_file():
        return load_target(directory, target.dtype, target.device)
    weights = target.state_dict()
    try:
        tensors = {name: weights[source] for name, source in json.loads(shared_path.read_text()).items()}
    except KeyError as error:
        raise EngineError(f"drafter/{SHARED_TENSORS} names {error}, which the target does not have") from error
    own = directory / WEIGHTS
    if own.is_file():
        tensors |= {k: v.to(target.device, target.dtype) for k, v in load_file(own).items()}
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    with init_empty_weights(include_buffers=False):
        drafter: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=target.dtype, attn_implementation=ATTENTION
        )
    tied = set(drafter._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    absent = set(drafter.load_state_dict(tensors, strict=False, assign=True).missing_keys) - tied
    if absent:
        raise EngineError(f"drafter/ lacks the tensor {min(absent)}")
    drafter.tie_weights()
    return drafter.to(target.device)
