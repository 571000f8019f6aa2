"""One engine in a process of its own, asked a few prompts: what `doctor` compares.

A process for each, because an engine's memory comes back for sure with its process alone, and because settings for
workers have to be set before TensorRT-LLM is first imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from spec_cascade.engines.tensorrt_llm.mpi_job import is_of_mpi_job
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade.errors import EngineError, SpecCascadeError

PROMPTS = ("The capital of France is", "def fibonacci(n):", "One, two, three, four,")
STOCK = "stock"
"""In the place of a rule: TensorRT-LLM's own verifier."""
TIMEOUT_SECONDS = 1800.0
"""Ample for weights that are read for the first time; a start of MPI that is stuck says nothing and never ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeJob:
    """What to run.

    Attributes:
        model: Checkpoint of the target.
        drafter: Checkpoint of the drafter.
        rules: Deferral rules, one generation of all prompts with each; `STOCK` alone leaves the sampler as it is.
        draft_length: Tokens to draft per round.
        tensor_parallel_size: GPUs.
        prompts: Texts, or token ids.
        max_tokens: To generate from each of them, greedily.
        end_id: What ends an output; None takes the tokenizer's.
    """

    model: str
    drafter: str
    rules: tuple[str, ...]
    draft_length: int = 4
    tensor_parallel_size: int = 1
    prompts: tuple[str | tuple[int, ...], ...] = PROMPTS
    max_tokens: int = 32
    end_id: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SmokeResult:
    """What came of it.

    Attributes:
        token_ids: By rule, the output of each prompt.
        tokens_per_round: By rule, as TensorRT-LLM counts them, averaged over prompts; None where it does not.
        contract: The one that the workers found to hold; None with the stock verifier.
    """

    token_ids: dict[str, list[list[int]]]
    tokens_per_round: dict[str, float | None]
    contract: str | None


def run_apart(job: SmokeJob, timeout_seconds: float = TIMEOUT_SECONDS) -> SmokeResult:
    """Run a job in a process of its own.

    Args:
        job: What to run.
        timeout_seconds: After which it is ended, and what it has started with it.

    Raises:
        EngineError: It failed, or took longer; with the last lines of what it said.
    """
    kept = {name: value for name, value in os.environ.items() if name != VARIABLE and not is_of_mpi_job(name)}
    with tempfile.TemporaryDirectory(prefix="spec-cascade-smoke-") as directory:
        output, said = Path(directory) / "result.json", Path(directory) / "log"
        command = [sys.executable, "-m", __name__, json.dumps(asdict(job)), str(output)]
        with said.open("wb") as log:
            try:
                code = _ended(command, kept, log, timeout_seconds)
            except subprocess.TimeoutExpired:
                raise EngineError(f"no generation after {timeout_seconds:.0f} s: {_last_lines(said)}") from None
        if code != 0 or not output.is_file():
            raise EngineError(f"the generation ended with status {code}: {_last_lines(said)}")
        return SmokeResult(**json.loads(output.read_text(encoding="utf-8")))


def _ended(command: list[str], environment: dict[str, str], log: IO[bytes], timeout_seconds: float) -> int:
    """Run a command to its end; returns its status."""
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(timeout_seconds)
    except BaseException:
        # Its workers too: they would keep the memory of their GPUs.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def run(job: SmokeJob) -> SmokeResult:
    """Run a job in this process.

    Raises:
        ConfigError: A rule is none, or means nothing with the drafts of the chain loop.
        EngineError: The engine cannot be made, or does not verify by our rules.
    """
    from spec_cascade.engines.tensorrt_llm.delivery import deliver
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

    if STOCK in job.rules:
        return _generate(job, None)
    from spec_cascade.rules import check_draft_mode, parse_rule

    for rule in job.rules:
        check_draft_mode(parse_rule(rule), argmax_drafts=True, gates_available=True)
    delivery = deliver(SamplerSettings(draft_length=job.draft_length), world_size=job.tensor_parallel_size)
    try:
        return _generate(job, delivery)
    finally:
        delivery.close()


def _generate(job: SmokeJob, delivery: Any) -> SmokeResult:
    if delivery is None:
        from spec_cascade.engines.tensorrt_llm.delivery import SINGLE_PROCESS

        # In the same place as the other: what is compared is the verifier.
        os.environ[SINGLE_PROCESS] = "1"
    from tensorrt_llm import LLM, SamplingParams
    from tensorrt_llm.llmapi import DraftTargetDecodingConfig, KvCacheConfig

    from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams, attach

    field = "speculative_model"
    if field not in DraftTargetDecodingConfig.model_fields:
        field = "speculative_model_dir"  # as it was called before 1.2
    llm = LLM(
        model=job.model,
        tensor_parallel_size=job.tensor_parallel_size,
        speculative_config=DraftTargetDecodingConfig(**{"max_draft_len": job.draft_length, field: job.drafter}),
        disable_overlap_scheduler=True,
        max_batch_size=len(job.prompts),
        kv_cache_config=KvCacheConfig(enable_block_reuse=False),
    )
    try:
        contract = None if delivery is None else delivery.confirm()
        token_ids: dict[str, list[list[int]]] = {}
        rates: dict[str, float | None] = {}
        for rule in job.rules:
            params = SamplingParams(max_tokens=job.max_tokens, temperature=0.0, end_id=job.end_id)
            if delivery is not None:
                attach(params, CascadeParams(rule=rule))
            prompts = [prompt if isinstance(prompt, str) else list(prompt) for prompt in job.prompts]
            answers = llm.generate(prompts, sampling_params=params, use_tqdm=False)
            token_ids[rule] = [[int(token) for token in answer.outputs[0].token_ids] for answer in answers]
            rates[rule] = _mean([getattr(answer, "avg_decoded_tokens_per_iter", None) for answer in answers])
        return SmokeResult(token_ids=token_ids, tokens_per_round=rates, contract=contract)
    finally:
        llm.shutdown()


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _last_lines(path: Path, count: int = 5) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return " | ".join(lines[-count:]) or "it said nothing"


def main() -> None:
    """Run the job that the first argument describes, and write the result to the file that the second one names."""
    fields: dict[str, Any] = json.loads(sys.argv[1])
    arguments: dict[str, Any] = {k: tuple(value) if isinstance(value, list) else value for k, value in fields.items()}
    try:
        result = run(SmokeJob(**arguments))
    except SpecCascadeError as error:
        sys.exit(f"spec-cascade: {error}")
    Path(sys.argv[2]).write_text(json.dumps(asdict(result)), encoding="utf-8")


if __name__ == "__main__":
    main()
