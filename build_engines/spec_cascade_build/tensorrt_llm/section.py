"""`tensorrt_llm` of a pair file: how the pair of `engine: tensorrt_llm` runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from spec_cascade_build.section import Count, Section, refusal

Quantise = Literal["none", "fp8", "nvfp4"]
Role = Literal["target", "drafter"]


class TensorrtLlmSection(Section):
    """How a pair runs, in the words of the LLM API where it has some.

    What drafts forbid is a field with one allowed value: whoever comes from a configuration of their own is told why.

    Attributes:
        gpu: The GPU that memory is planned for, by name; ``this`` is the first one of the machine that builds.
        tensor_parallel_size: GPUs that both models are split over.
        pipeline_parallel_size: Only 1.
        quantise: Weights of the target, quantised by ModelOpt when the engine is built.
        quantise_drafter: Those of the drafter; None is as the target.
        calibration_size: Texts that a quantisation looks at.
        calibration_dataset: Which: a name that ModelOpt knows.
        kv_cache: Type of both KV caches; ``auto`` is what each checkpoint says, else its model's type.
        enable_block_reuse: Whether requests share the KV of a prefix that they have in common.
        max_kv_tokens: Most tokens in the KV cache; None takes what fits.
        free_gpu_memory_fraction: Of the memory that TensorRT-LLM finds free, what the KV caches take; None is planned.
        free_memory_margin_gib: Memory to leave free beside what is planned.
        max_num_tokens: Tokens of all requests in one forward.
        enable_chunked_prefill: Whether a prompt may go through in pieces of `max_num_tokens`.
        cuda_graph_batch_sizes: Batch sizes to capture CUDA graphs for; None chooses, none at all runs without.
        attention_backend: TensorRT-LLM's own kernels or FlashInfer's.
        overlap_scheduler: Only false.
        guided_decoding: Only none.
        beam_width: Only 1.
    """

    gpu: str = Field(min_length=1, description="the name of a GPU (H100, H200, B200, L40S, ...), or this")
    tensor_parallel_size: Count = 1
    pipeline_parallel_size: Literal[1] = Field(
        default=1,
        description="1: TensorRT-LLM does not draft across pipeline stages; split with tensor_parallel_size",
    )
    quantise: Quantise = Field(default="none", description="'none', 'fp8' or 'nvfp4'")
    quantise_drafter: Quantise | None = Field(
        default=None, description="'none', 'fp8' or 'nvfp4', or left out for the same as the target"
    )
    calibration_size: Count = 512
    calibration_dataset: str = Field(
        default="cnn_dailymail", min_length=1, description="the name of a data set that ModelOpt knows"
    )
    kv_cache: Literal["auto", "fp8"] = Field(default="auto", description="'auto' or 'fp8'")
    enable_block_reuse: bool = Field(default=False, description="true or false")
    max_kv_tokens: int | None = Field(default=None, ge=1, description="an integer >= 1, or left out for all that fit")
    free_gpu_memory_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="a number in (0, 1), or left out to have it planned"
    )
    free_memory_margin_gib: float = Field(default=1.0, ge=0, description="a number >= 0, in GiB")
    max_num_tokens: Count = 8192
    enable_chunked_prefill: bool = Field(default=False, description="true or false")
    cuda_graph_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        default=None,
        strict=False,
        description="batch sizes >= 1, ascending, [] for no CUDA graphs, or left out to have them chosen",
    )
    attention_backend: Literal["TRTLLM", "FLASHINFER"] = Field(default="TRTLLM", description="'TRTLLM' or 'FLASHINFER'")
    overlap_scheduler: Literal[False] = Field(
        default=False,
        description="false: where rounds overlap, TensorRT-LLM keeps drafts that equal the target's tokens, and no "
        "rule is asked",
    )
    guided_decoding: Literal["none"] = Field(
        default="none", description="none: a grammar is followed by TensorRT-LLM's own verifier only, not by a rule"
    )
    beam_width: Literal[1] = Field(default=1, description="1: beams are not drafted")

    @model_validator(mode="after")
    def _ascending(self) -> TensorrtLlmSection:
        sizes = list(self.cuda_graph_batch_sizes or ())
        if sizes != sorted(set(sizes)):
            raise refusal("cuda_graph_batch_sizes", sizes, "in ascending order without repeats")
        return self

    def quantisation(self, role: Role) -> Quantise:
        """Of one of the two models."""
        return self.quantise if role == "target" or self.quantise_drafter is None else self.quantise_drafter

    def graph_batch_sizes(self, max_batch_size: int) -> tuple[int, ...]:
        """Batch sizes with a CUDA graph; a batch between two of them is padded to the larger.

        Args:
            max_batch_size: Requests decoded at a time.
        """
        if self.cuda_graph_batch_sizes is not None:
            return self.cuda_graph_batch_sizes
        # TensorRT-LLM's own choice, ended at the largest batch there can be.
        steps = {1, 2, 4, *range(8, max_batch_size + 1, 8), max_batch_size}
        return tuple(sorted(size for size in steps if size <= max_batch_size))
