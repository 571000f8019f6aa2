"""Families of dense decoders: what their `config.json` leaves to the model's code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """Models that one class computes.

    Attributes:
        architecture: Name of that class.
        norms: Norms of a layer, each as wide as the residual stream.
        qk_norm: Whether q and k are normalised, with weights as wide as a head.
        qkv_bias: Whether q, k and v have biases whatever `config.json` says.
        tied: Whether the output head is the input embedding where `config.json` does not say.
        defaults: Values of fields that published files leave out.
    """

    architecture: str
    norms: int = 2
    qk_norm: bool = False
    qkv_bias: bool = False
    tied: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


_GEMMA3 = Family(
    architecture="Gemma3ForCausalLM",
    norms=4,
    qk_norm=True,
    tied=True,
    # Those of transformers' Gemma3TextConfig: published files leave out what equals them. The 4B model's says neither
    # how many heads it has nor how wide they are, the 27B model's not how wide its vocabulary is.
    defaults={
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
    },
)

# By model_type.
FAMILIES: Mapping[str, Family] = {
    "llama": Family(architecture="LlamaForCausalLM"),
    "mistral": Family(architecture="MistralForCausalLM"),
    "qwen2": Family(architecture="Qwen2ForCausalLM", qkv_bias=True),
    "qwen3": Family(architecture="Qwen3ForCausalLM", qk_norm=True),
    "gemma3_text": _GEMMA3,
}
