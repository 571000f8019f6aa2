"""What an LLM is made with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from tensorrt_llm._torch.speculative.interface import SpeculativeDecodingMode
from tensorrt_llm.mapping import Mapping
from tests.trtllm_fake.stage import current

SHAPE = current().shape


class StrictBaseModel(BaseModel):
    """Knows its fields, and takes no others."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, ignored_types=(cached_property,))


class CudaGraphConfig(StrictBaseModel):
    """For which batches there are CUDA graphs."""

    batch_sizes: list[int] | None = None
    max_batch_size: int = 0
    enable_padding: bool = False

    @model_validator(mode="after")
    def _generate(self) -> CudaGraphConfig:
        if self.batch_sizes is None:
            largest = self.max_batch_size or 128
            few = [1, 2, 4, *range(8, 129, 8)] if self.enable_padding else [*range(1, 32), 32, 64, 128]
            self.batch_sizes = sorted({size for size in few if size <= largest} | {largest})
        self.max_batch_size = max(self.batch_sizes)
        return self


class KvCacheConfig(StrictBaseModel):
    """The KV cache."""

    enable_block_reuse: bool = True
    max_tokens: int | None = None
    max_attention_window: list[int] | None = None
    sink_token_length: int | None = None
    free_gpu_memory_fraction: float | None = 0.9
    host_cache_size: int | None = None
    onboard_blocks: bool = True
    enable_partial_reuse: bool = True
    copy_on_partial_reuse: bool = True
    dtype: str = "auto"
    tokens_per_block: int = 32


class DecodingBaseConfig(StrictBaseModel):
    """How to speculate."""

    max_draft_len: int | None = None
    max_total_draft_tokens: int | None = None
    if SHAPE.since_1_2_0:
        speculative_model: str | Path | None = Field(
            default=None, validation_alias=AliasChoices("speculative_model", "speculative_model_dir")
        )
        draft_len_schedule: dict[int, int] | None = None
    else:
        speculative_model_dir: str | Path | None = None
    max_concurrency: int | None = None
    load_format: str | None = None
    acceptance_window: int | None = None
    acceptance_length_threshold: float | None = None
    _allow_chain_drafter: bool = PrivateAttr(True)
    _allow_greedy_draft_tokens: bool = PrivateAttr(True)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> DecodingBaseConfig:
        """By the name that a YAML file gives it."""
        fields = dict(data)
        kind = fields.pop("decoding_type", None)
        if kind != "DraftTarget":
            raise ValueError(f"Invalid decoding type: {kind}")
        return DraftTargetDecodingConfig(**fields)

    def supports_backend(self, backend: str) -> bool:
        """Whether a backend can run it."""
        return backend in ("pytorch", "_autodeploy")

    @property
    def spec_dec_mode(self) -> SpeculativeDecodingMode:
        """The way to speculate."""
        return SpeculativeDecodingMode.from_string(getattr(self, "decoding_type", None))


class DraftTargetDecodingConfig(DecodingBaseConfig):
    """With a model of its own; what is missing is found by the arguments that it is given to."""

    decoding_type: ClassVar[str] = "Draft_Target"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_total_draft_tokens = self.max_draft_len


class TorchLlmArgs(StrictBaseModel):
    """All arguments of an LLM."""

    model: str | Path
    tokenizer: Any = None
    tokenizer_mode: str = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1
    dtype: str = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    gpus_per_node: int | None = None
    enable_attention_dp: bool = False
    load_format: Any = "auto"
    kv_cache_config: KvCacheConfig = Field(default_factory=KvCacheConfig)
    enable_chunked_prefill: bool = False
    guided_decoding_backend: Literal["xgrammar", "llguidance"] | None = None
    batched_logits_processor: Any = None
    speculative_config: DecodingBaseConfig | None = None
    max_batch_size: int | None = None
    max_input_len: int | None = None
    max_seq_len: int | None = None
    max_beam_width: int | None = None
    max_num_tokens: int | None = 8192
    gather_generation_logits: bool = False
    decoding_config: Any = None
    backend: str | None = "pytorch"
    return_perf_metrics: bool = False
    cuda_graph_config: CudaGraphConfig | None = Field(default_factory=CudaGraphConfig)
    disable_overlap_scheduler: bool = False
    attn_backend: str = "TRTLLM"
    sampler_type: str = "auto"
    enable_iter_perf_stats: bool = False
    torch_compile_config: Any = None
    enable_autotuner: bool = True
    stream_interval: int = 1
    mm_encoder_only: bool = False
    if SHAPE.since_1_2_0:
        sampler_force_async_worker: bool = False
        disable_flashinfer_sampling: bool = False

    @field_validator("speculative_config", mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:
        return DecodingBaseConfig.from_dict(value) if isinstance(value, dict) else value

    @model_validator(mode="after")
    def validate_speculative_config(self) -> TorchLlmArgs:
        """Refuse a drafter that is not there, or drafts nothing."""
        config = self.speculative_config
        if config is not None:
            path = config.speculative_model if SHAPE.since_1_2_0 else config.speculative_model_dir
            assert config.max_draft_len is not None, "max_draft_len is required"
            assert config.max_draft_len > 0, "max_draft_len must be positive"
            assert path is not None, "a draft model is required"
        return self

    @property
    def parallel_config(self) -> Any:
        """How the model lies on GPUs."""
        size = self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size
        mapping = Mapping(
            world_size=size,
            tp_size=self.tensor_parallel_size,
            pp_size=self.pipeline_parallel_size,
            cp_size=self.context_parallel_size,
            enable_attention_dp=self.enable_attention_dp,
        )
        return SimpleNamespace(world_size=size, is_multi_gpu=size > 1, to_mapping=lambda: mapping)

    def get_runtime_sizes(self) -> tuple[int, int, int | None, int]:
        """Beams, tokens of a round, window, requests of a round."""
        return self.max_beam_width or 1, self.max_num_tokens or 8192, self.max_seq_len, self.max_batch_size or 2048

    if not SHAPE.since_1_2_0:

        def get_pytorch_backend_config(self) -> Any:
            """The part that the executor is told."""
            names = ("disable_overlap_scheduler", "attn_backend", "sampler_type", "stream_interval", "mm_encoder_only")
            return SimpleNamespace(**{name: getattr(self, name) for name in names})


def update_llm_args_with_extra_dict(llm_args: dict[str, Any], llm_args_dict: dict[str, Any]) -> dict[str, Any]:
    """Lay what a YAML file says over arguments."""
    classes = {"kv_cache_config": KvCacheConfig, "cuda_graph_config": CudaGraphConfig}
    told = {
        name: classes[name](**value) if name in classes and isinstance(value, dict) else value
        for name, value in llm_args_dict.items()
    }
    if isinstance(told.get("speculative_config"), dict):
        told["speculative_config"] = DecodingBaseConfig.from_dict(told["speculative_config"])
    return llm_args | told
