"""Whether two models fit each other, a GPU and what the pair file asks for, judged from their facts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade_build.lengths import check_length
from spec_cascade_build.tensorrt_llm.quantisation import NEEDS
from spec_cascade_build.tensorrt_llm.weights import Formats

if TYPE_CHECKING:
    from spec_cascade.engines.tensorrt_llm.gpus import Gpu
    from spec_cascade_build.pair import PairDefaults
    from spec_cascade_build.tensorrt_llm.facts import ModelFacts
    from spec_cascade_build.tensorrt_llm.section import Role, TensorrtLlmSection

_RANKS = (1, 2, 4, 8, 16)
# TensorRT-LLM gives its text model FlashInfer's attention whatever the engine is configured with.
_FLASHINFER_ONLY = ("Gemma3ForConditionalGeneration",)


def check_models(
    target: ModelFacts, drafter: ModelFacts, gpu: Gpu, section: TensorrtLlmSection, defaults: PairDefaults
) -> tuple[Formats, Formats]:
    """Check everything but memory, and say in which number formats the models run.

    Raises:
        ConfigError: A field of the pair file does not fit the models or the GPU.
    """
    formats = (
        _formats("target", target, gpu, section),
        _formats("drafter", drafter, gpu, section),
    )
    _check_ranks({"target": target, "drafter": drafter}, section.tensor_parallel_size)
    _check_lengths({"target": target, "drafter": drafter}, section, defaults)
    _check_attention(target, drafter, section, defaults)
    if defaults.draft_mode == "argmax" and drafter.logits > target.logits:
        raise ConfigError(
            "defaults.draft_mode",
            "argmax",
            f"'sampled': the drafter has {drafter.logits} logits and the target {target.logits}, and TensorRT-LLM "
            "takes the argmax of all of them",
        )
    return formats


def ranks_that_divide(*models: ModelFacts) -> list[int]:
    """Numbers of GPUs that models can be split over."""
    return [ranks for ranks in _RANKS if all(_indivisible(facts, ranks) is None for facts in models)]


def _formats(whose: Role, facts: ModelFacts, gpu: Gpu, section: TensorrtLlmSection) -> Formats:
    """The number formats of one model, all of which the GPU knows."""
    wanted, found = section.quantisation(whose), facts.quantisation
    field = "quantise_drafter" if whose == "drafter" and section.quantise_drafter is not None else "quantise"
    if wanted != "none" and found is not None:
        named = found.weights or f"a KV cache in {found.kv_cache}"
        raise ConfigError(f"tensorrt_llm.{field}", wanted, f"'none': the {whose} is quantised already ({named})")
    weights = wanted.upper() if wanted != "none" else None if found is None else found.weights
    kv_cache = "FP8" if section.kv_cache == "fp8" else None if found is None else found.kv_cache
    if "bfloat16" not in gpu.formats:
        raise ConfigError(
            "tensorrt_llm.gpu", gpu.name, "of compute capability 8.0 or later: the models run in bfloat16"
        )
    if weights is not None and NEEDS[weights] not in gpu.formats:
        if wanted != "none":
            _refuse_format(f"tensorrt_llm.{field}", wanted, gpu)
        raise ConfigError("tensorrt_llm.gpu", gpu.name, f"one that computes in {weights}, as the {whose} is quantised")
    if kv_cache is not None and NEEDS[kv_cache] not in gpu.formats:
        _refuse_format("tensorrt_llm.kv_cache", section.kv_cache, gpu)
    if section.kv_cache == "fp8" and found is not None and found.kv_cache not in (None, "FP8"):
        raise ConfigError("tensorrt_llm.kv_cache", "fp8", f"'auto': the {whose}'s KV cache is in {found.kv_cache}")
    return Formats(weights=weights, kv_cache=kv_cache)


def _refuse_format(field: str, value: str, gpu: Gpu) -> None:
    plain = "auto" if field.endswith("kv_cache") else "none"
    known = [repr(plain), *(repr(name) for name in gpu.formats if name not in ("bfloat16", value))]
    capability = ".".join(map(str, gpu.capability))
    raise ConfigError(field, value, f"{' or '.join(known)} on {gpu.name} (compute capability {capability})")


def _check_ranks(models: dict[str, ModelFacts], ranks: int) -> None:
    for whose, facts in models.items():
        if (reason := _indivisible(facts, ranks)) is not None:
            fit = ", ".join(map(str, ranks_that_divide(*models.values())))
            raise ConfigError("tensorrt_llm.tensor_parallel_size", ranks, f"one of {fit}: the {whose} has {reason}")


def _indivisible(facts: ModelFacts, ranks: int) -> str | None:
    """What a model has that this number of GPUs does not divide."""
    if facts.heads % ranks:
        return f"{facts.heads} attention heads"
    # Fewer heads of keys and values than GPUs are kept by several GPUs each.
    if facts.kv_heads % ranks and ranks % facts.kv_heads:
        return f"{facts.kv_heads} heads of keys and values"
    if facts.intermediate % ranks:
        return f"an intermediate_size of {facts.intermediate}"
    return None


def _check_lengths(models: dict[str, ModelFacts], section: TensorrtLlmSection, defaults: PairDefaults) -> None:
    length = defaults.max_seq_len
    for whose, facts in models.items():
        check_length(whose, facts.max_positions, length)
    scored = defaults.max_batch_size * (defaults.draft_length + 1)
    if section.max_num_tokens < scored:
        reason = f"a round scores {defaults.draft_length + 1} tokens of each of {defaults.max_batch_size} requests"
        raise ConfigError("tensorrt_llm.max_num_tokens", section.max_num_tokens, f"at least {scored}: {reason}")
    if section.max_num_tokens < length and not section.enable_chunked_prefill:
        allowed = f"at least defaults.max_seq_len, which is {length}, or enable_chunked_prefill: true beside it"
        raise ConfigError("tensorrt_llm.max_num_tokens", section.max_num_tokens, allowed)


def _check_attention(
    target: ModelFacts, drafter: ModelFacts, section: TensorrtLlmSection, defaults: PairDefaults
) -> None:
    backend = section.attention_backend
    for facts in (target, drafter):
        if backend != "FLASHINFER" and facts.architecture in _FLASHINFER_ONLY:
            allowed = f"'FLASHINFER': the attention that TensorRT-LLM gives {facts.architecture}"
            raise ConfigError("tensorrt_llm.attention_backend", backend, allowed)
    if backend == "FLASHINFER" and defaults.draft_mode == "argmax":
        allowed = "'sampled': with FLASHINFER TensorRT-LLM asks its sampler for every drafted token"
        raise ConfigError("defaults.draft_mode", "argmax", allowed)
    if section.enable_block_reuse:
        if backend == "FLASHINFER":
            raise ConfigError("tensorrt_llm.enable_block_reuse", True, "false with attention_backend FLASHINFER")
        if target.sliding_layers or drafter.sliding_layers:
            allowed = "false: sharing prefixes is not exact in TensorRT-LLM where layers have sliding windows"
            raise ConfigError("tensorrt_llm.enable_block_reuse", True, allowed)
