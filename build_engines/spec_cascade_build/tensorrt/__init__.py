"""Compiled TensorRT engines of a pair: what to run, running it, and reading back what came out."""
