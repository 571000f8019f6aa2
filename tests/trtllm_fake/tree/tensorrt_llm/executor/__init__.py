"""From the LLM API to the executor's loop."""

from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.executor.utils import RequestError

__all__ = ["GenerationResult", "RequestError"]
