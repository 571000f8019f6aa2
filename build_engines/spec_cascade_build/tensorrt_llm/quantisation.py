"""Number formats of weights and KV caches, as checkpoints declare them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spec_cascade_build.errors import BuildError


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """How a checkpoint is quantised.

    Attributes:
        weights: TensorRT-LLM's name: ``FP8``, ``FP8_BLOCK_SCALES`` or ``NVFP4``; None where weights are not.
        kv_cache: Its name for the KV cache: ``FP8`` or ``NVFP4``; None where the model's own type is kept.
    """

    weights: str | None
    kv_cache: str | None


# Bytes of one weight with its share of the scales: NVFP4 has one byte of scale for 16 weights of half a byte, blocks of
# FP8 have four for 128 x 128; a scale for a whole matrix is nothing.
WEIGHT_BYTES = {"FP8": 1.0, "FP8_BLOCK_SCALES": 1.0 + 4 / 128**2, "NVFP4": 0.5 + 1 / 16}
KV_BYTES = {"FP8": 1.0, "NVFP4": 0.5 + 1 / 16}
# What the tensor cores have to know, as `Gpu.formats` names it.
NEEDS = {"FP8": "fp8", "FP8_BLOCK_SCALES": "fp8", "NVFP4": "nvfp4"}
PLAIN_BYTES = 2.0
"""Of a bfloat16."""


def checkpoint_quantisation(
    config: dict[str, Any], hf_quant_config: dict[str, Any] | None, whose: str
) -> Quantisation | None:
    """What a checkpoint says of its quantisation.

    Args:
        config: Its `config.json`.
        hf_quant_config: Its `hf_quant_config.json`, which ModelOpt writes; None where it has none.
        whose: ``target`` or ``drafter``, for messages.

    Raises:
        BuildError: TensorRT-LLM's PyTorch workflow does not load it.
    """
    if hf_quant_config is not None:
        return _modelopt(hf_quant_config.get("quantization") or {}, whose)
    declared = config.get("quantization_config")
    if not declared:
        return None
    method = declared.get("quant_method")
    if method == "modelopt":
        return _modelopt(declared, whose)
    if method == "fp8" and declared.get("weight_block_size") == [128, 128]:
        return Quantisation(weights="FP8_BLOCK_SCALES", kv_cache=None)
    raise BuildError(
        f"the {whose}'s config.json says quant_method {method!r}, which TensorRT-LLM does not load: "
        "give a checkpoint that is not quantised (tensorrt_llm.quantise quantises it), one of ModelOpt, "
        "or one in FP8 with blocks of 128 x 128"
    )


def _modelopt(values: dict[str, Any], whose: str) -> Quantisation | None:
    found = Quantisation(weights=values.get("quant_algo"), kv_cache=values.get("kv_cache_quant_algo"))
    for what, name, known in (
        ("quant_algo", found.weights, WEIGHT_BYTES),
        ("kv_cache_quant_algo", found.kv_cache, KV_BYTES),
    ):
        if name is not None and name not in known:
            raise BuildError(
                f"the {whose}'s {what} is {name!r}, which is not planned for; planned for are {', '.join(known)}"
            )
    return found if found.weights or found.kv_cache else None
