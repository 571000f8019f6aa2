"""Engine directories for TensorRT-LLM's LLM API: what to check, what fits, what to write, what to run."""
