"""The LLM API."""

from tensorrt_llm.executor.result import CompletionOutput
from tensorrt_llm.llmapi.llm import LLM, RequestOutput
from tensorrt_llm.llmapi.llm_args import (
    CudaGraphConfig,
    DecodingBaseConfig,
    DraftTargetDecodingConfig,
    KvCacheConfig,
    TorchLlmArgs,
)
from tensorrt_llm.sampling_params import SamplingParams

__all__ = [
    "LLM",
    "CompletionOutput",
    "CudaGraphConfig",
    "DecodingBaseConfig",
    "DraftTargetDecodingConfig",
    "KvCacheConfig",
    "RequestOutput",
    "SamplingParams",
    "TorchLlmArgs",
]
