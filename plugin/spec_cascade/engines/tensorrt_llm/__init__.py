"""TensorRT-LLM's LLM API with our verifier in the place of its own; importing this imports nothing of TensorRT-LLM."""
