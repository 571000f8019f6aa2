"""`python -m spec_cascade_build.tensorrt_llm.warm_up`: TensorRT-LLM started once with the arguments of `llm.yaml`.

Its start times kernels and keeps what it found where `TLLM_AUTOTUNER_CACHE_PATH` says; the engine then starts without.
One short answer shows that the pair runs. The verifier is TensorRT-LLM's own: kernels do not depend on it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from spec_cascade.engines.tensorrt_llm.arguments import placed_arguments
from spec_cascade.engines.tensorrt_llm.mpi_job import leave_mpi_job
from spec_cascade.errors import SpecCascadeError
from spec_cascade.yaml_file import read_yaml
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.places import checkpoint_at

_PROMPT = "The capital of France is"
_TOKENS = 16


def main(words: list[str] | None = None) -> None:
    """Start, answer once, end; errors raised on purpose end as one line."""
    parser = argparse.ArgumentParser(prog="warm_up", description="Start TensorRT-LLM once.")
    parser.add_argument("config", type=Path, help="llm.yaml")
    parser.add_argument("--target", required=True, help="a checkpoint directory, or organisation/name@commit")
    parser.add_argument("--drafter", required=True, help="likewise")
    given = parser.parse_args(words)
    leave_mpi_job()
    try:
        warm_up(given.config, str(checkpoint_at(given.target)), str(checkpoint_at(given.drafter)))
    except SpecCascadeError as error:
        sys.exit(f"warm_up: {error}")


def warm_up(config: Path, target: str, drafter: str) -> None:
    """Start TensorRT-LLM with the arguments of a file and models in places of their own.

    Args:
        config: `llm.yaml`.
        target: The target's checkpoint directory.
        drafter: The drafter's.

    Raises:
        BuildError: TensorRT-LLM is not installed, or gives no answer.
    """
    written = read_yaml(config, "configuration", BuildError)
    if not isinstance(written, dict) or "speculative_config" not in written:
        raise BuildError(f"{config} is not a file that spec-cascade build wrote")
    arguments = placed_arguments(written, target, drafter)
    try:
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi.llm_args import update_llm_args_with_extra_dict
    except ModuleNotFoundError as error:
        raise BuildError(f"TensorRT-LLM is not installed: {error}") from error
    with LLM(**update_llm_args_with_extra_dict({}, arguments)) as llm:
        outputs = llm.generate([_PROMPT], SamplingParams(max_tokens=_TOKENS))
    if not outputs[0].outputs[0].token_ids:
        raise BuildError("TensorRT-LLM started, but answered with no token")


if __name__ == "__main__":
    main()
