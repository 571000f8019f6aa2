"""`tensorrt` of a pair file: how the two engines of `engine: tensorrt` are compiled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from spec_cascade_build.section import Count, Section, refusal

Quantisation = Literal["none", "int8", "int4", "fp8", "int4_awq", "nvfp4"]
Role = Literal["drafter", "target"]

# Whose attention still reads a paged context with an FP8 KV cache; for others trtllm-build switches that off silently.
_FP8_KV = ("fp8", "nvfp4")


class TensorrtSection(Section):
    """How a pair is compiled.

    Attributes:
        dtype: Of what is not quantised; None is the pair's.
        tensor_parallel_size: GPUs that each engine is split over.
        quantise: Weights (and for fp8 and nvfp4 activations) of the target: ``int8`` and ``int4`` are weight-only,
            the others are calibrated on a GPU.
        quantise_drafter: Those of the drafter; None is as the target.
        kv_cache: ``fp8`` for models that are fp8 or nvfp4, else the model's own type.
        calibration_size: Texts that a calibrated quantisation looks at; int4_awq takes the first 32.
        calibration_dataset: Which: a name on the Hugging Face hub or a directory; None is quantize.py's own choice.
        max_input_len: Longest input of one request; None is `defaults.max_seq_len`, for the target is sent the whole
            text so far in every round.
        max_num_tokens: Tokens of all requests in one forward, padding removed.
        tokens_per_block: Of a page of the KV cache: what is reused from round to round is whole pages.
        logits_dtype: Of the rows that engines return.
        gemm_plugin: ``auto`` takes the model's type.
        jobs: Commands that run at a time. Two that time kernels on one GPU disturb each other: raise it where only
            conversions overlap or every command has a GPU of its own.
        workers: Ranks that one command handles at a time; trtllm-build has at most one for each GPU.
        timing_cache: Where kernel timings are kept from build to build, apart for every version and model of GPU; None
            is beside the checkpoints.
        examples: The `examples` directory of TensorRT-LLM; None looks where its containers have it.
    """

    dtype: Literal["float16", "bfloat16"] | None = Field(
        default=None, description="'float16' or 'bfloat16', or left out for the pair's dtype"
    )
    tensor_parallel_size: Count = 1
    quantise: Quantisation = Field(
        default="none", description="'none', 'int8', 'int4' (weights only), 'fp8', 'int4_awq' or 'nvfp4'"
    )
    quantise_drafter: Quantisation | None = Field(
        default=None, description="one of quantise's values, or left out for the same as the target"
    )
    kv_cache: Literal["auto", "fp8"] = Field(default="auto", description="'auto' or 'fp8'")
    calibration_size: Count = 512
    calibration_dataset: str | None = Field(
        default=None, min_length=1, description="a data set on the Hugging Face hub, or a directory"
    )
    max_input_len: int | None = Field(
        default=None, ge=1, description="an integer >= 1, or left out for defaults.max_seq_len"
    )
    max_num_tokens: Count = 8192
    tokens_per_block: Literal[32, 64, 128] = Field(default=32, description="32, 64 or 128")
    logits_dtype: Literal["float32", "float16"] = Field(default="float32", description="'float32' or 'float16'")
    gemm_plugin: Literal["auto", "float16", "bfloat16", "fp8", "nvfp4", "disable"] = Field(
        default="auto", description="'auto', 'float16', 'bfloat16', 'fp8', 'nvfp4' or 'disable'"
    )
    jobs: Count = 1
    workers: Count = 1
    timing_cache: str | None = Field(
        default=None, min_length=1, description="a directory; a relative path starts at the pair file"
    )
    examples: str | None = Field(
        default=None,
        min_length=1,
        description="the examples directory of TensorRT-LLM; a relative path starts at the pair file",
    )

    @model_validator(mode="after")
    def _engines_that_read_pages(self) -> TensorrtSection:
        if self.kv_cache == "fp8" and self.quantise not in _FP8_KV:
            raise refusal("kv_cache", "fp8", f"'auto' where quantise is {self.quantise!r}: it needs 'fp8' or 'nvfp4'")
        if self.gemm_plugin in _FP8_KV and self.gemm_plugin != self.quantise:
            raise refusal("gemm_plugin", self.gemm_plugin, f"a type that quantise has, which is {self.quantise!r}")
        return self

    def quantisation(self, role: Role) -> Quantisation:
        """Of one of the two models."""
        return self.quantise_drafter or self.quantise if role == "drafter" else self.quantise

    def kv_cache_of(self, role: Role) -> Literal["auto", "fp8"]:
        """Of one of the two engines: a model that is not quantised keeps its own type."""
        return self.kv_cache if self.quantisation(role) in _FP8_KV else "auto"

    def gemm_plugin_of(self, role: Role) -> str:
        """Of one of the two engines: a type that only quantised weights have falls back to ``auto``."""
        fits = self.gemm_plugin not in _FP8_KV or self.gemm_plugin == self.quantisation(role)
        return self.gemm_plugin if fits else "auto"
