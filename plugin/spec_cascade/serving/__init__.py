"""What the Triton server models need: request parsing, responses, metrics."""
