"""A stand-in for TensorRT-LLM, see ``tests/trtllm_fake``."""

from tensorrt_llm.llmapi import LLM, SamplingParams
from tensorrt_llm.version import __version__

__all__ = ["LLM", "SamplingParams", "__version__"]
