"""TensorRT-LLM's logger."""

import logging

logger = logging.getLogger("tensorrt_llm")
