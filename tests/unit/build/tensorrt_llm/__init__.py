"""Builds for TensorRT-LLM's LLM API, as far as they go without a GPU."""
