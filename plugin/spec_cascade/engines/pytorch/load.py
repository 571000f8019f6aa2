"""From an engine directory to the two models, sharing what can be shared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
"""What models compute in, by the names of pair files and manifests."""
SHARED_TENSORS = "shared_tensors.json"


def load_target(directory: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a model from its directory with our attention.

    Raises:
        EngineError: The files are there but make no model.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"{directory.name}/ cannot be loaded: {error}") from error
    return model.to(device)


def load_drafter(directory: Path, target: PreTrainedModel) -> PreTrainedModel:
    """Load the drafter; tensors named in ``shared_tensors.json`` are the target's own, in the same memory.

    Raises:
        EngineError: A tensor is neither the drafter's nor the target's.
    """
    shared_path = directory / SHARED_TENSORS
    if not shared_path.is_file():
        return load_target(directory, target.dtype, target.device)
    weights = target.state_dict()
    try:
        tensors = {name: weights[source] for name, source in json.loads(shared_path.read_text()).items()}
    except KeyError as error:
        raise EngineError(f"drafter/{SHARED_TENSORS} names {error}, which the target does not have") from error
    own = directory / "model.safetensors"
    if own.is_file():
        tensors |= {k: v.to(target.device, target.dtype) for k, v in load_file(own).items()}
    config = AutoConfig.from_pretrained(directory, local_files_only=True)
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
