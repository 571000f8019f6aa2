"""The embedded engine: Hugging Face modelling code, own slot KV cache and in-flight batching."""
