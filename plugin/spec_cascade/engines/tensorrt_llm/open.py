"""From an engine directory to TensorRT-LLM with our verifier in it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.stop import StopConditions
from spec_cascade.decoding.text import stop_cut
from spec_cascade.decoding.tokenizer import Tokenizer, bad_word_sequences
from spec_cascade.engines.admission import Admission
from spec_cascade.engines.manifest import AUTOTUNER_CACHE, LLM_CONFIG
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.engines.tensorrt_llm.arguments import placed_arguments
from spec_cascade.engines.tensorrt_llm.delivery import AUTOTUNER_VARIABLE, deliver
from spec_cascade.engines.tensorrt_llm.gpus import present_gpus
from spec_cascade.engines.tensorrt_llm.inspection import import_package
from spec_cascade.engines.tensorrt_llm.llm import CascadeLLM
from spec_cascade.engines.tensorrt_llm.mpi_job import leave_mpi_job
from spec_cascade.engines.tensorrt_llm.reports import ReportListener
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from spec_cascade.errors import EngineError, SpecCascadeError
from spec_cascade.rules import parse_rule
from spec_cascade.yaml_file import read_yaml

if TYPE_CHECKING:
    from spec_cascade.engines.manifest import Manifest
    from spec_cascade.engines.model_reference import TensorrtLlmEntry
    from spec_cascade.engines.tensorrt_llm.reports import Report


class _Receiver:
    """Where reports go: to the engine, once there is one; before that only TensorRT-LLM's own requests run."""

    engine: CascadeLLM | None = None

    def __call__(self, reports: list[Report]) -> None:
        if self.engine is not None:
            self.engine.receive(reports)

    def lost(self) -> None:
        """Nobody reports any more: the process of rank 0 has ended."""
        if self.engine is not None:
            self.engine.lose()


def open_tensorrt_llm(directory: Path, manifest: Manifest) -> CascadeLLM:
    """Start TensorRT-LLM on this machine's GPUs.

    Args:
        directory: The engine directory.
        manifest: Its manifest.

    Raises:
        EngineError: TensorRT-LLM is not installed or not one that we know, a model is missing, the start-up hook is,
            TensorRT-LLM does not start, or the engine does not verify by our rules.
    """
    entry, defaults = manifest.tensorrt_llm, manifest.defaults
    if entry is None:
        raise EngineError(f"{directory}: the manifest has no tensorrt_llm entry: run spec-cascade build again")
    receiver = _Receiver()
    with ExitStack() as stack:
        stack.callback(os.environ.update, leave_mpi_job())
        settings = SamplerSettings(
            default_rule=defaults.rule,
            draft_mode=defaults.draft_mode,
            draft_length=defaults.draft_length,
            vocab_size=manifest.vocabulary.vocab_size,
        )
        if entry.tensor_parallel_size > 1:
            key = secrets.token_hex(16)
            listener = ReportListener(receiver, key.encode(), receiver.lost)
            stack.callback(listener.close)
            settings = replace(settings, report_address=listener.address, report_key=key)
        # Before TensorRT-LLM is imported, which starts MPI, which hands on the variables of that moment.
        _hand_over_tactics(directory, entry, stack)
        delivery = deliver(settings, world_size=entry.tensor_parallel_size, receive=receiver)
        stack.callback(delivery.close)
        llm = _start(directory, entry, sampled=defaults.draft_mode == "sampled")
        stack.callback(llm.shutdown)
        delivery.confirm()
        admission = _admission(directory, manifest)
        from tensorrt_llm import SamplingParams

        held = stack.pop_all()
        receiver.engine = CascadeLLM(
            llm, admission, SamplingParams, end_ids=manifest.vocabulary.eos_token_ids, close=held.close
        )
        return receiver.engine


def _hand_over_tactics(directory: Path, entry: TensorrtLlmEntry, stack: ExitStack) -> None:
    """Have TensorRT-LLM begin with the kernels that the build found to be fast.

    In a copy: it writes to the file when it is done, and fails where a rank's part is missing.
    """
    cache = directory / AUTOTUNER_CACHE
    parts = [cache.with_name(f"{cache.stem}.rank{rank}{cache.suffix}") for rank in range(entry.tensor_parallel_size)]
    fits = entry.autotuner_gpu in [gpu.name for gpu in present_gpus()] and all(part.is_file() for part in parts)
    if not fits or AUTOTUNER_VARIABLE in os.environ:
        return
    place = Path(tempfile.mkdtemp(prefix="spec-cascade-autotuner-"))
    stack.callback(shutil.rmtree, place, ignore_errors=True)
    for part in parts:
        shutil.copy(part, place)
    os.environ[AUTOTUNER_VARIABLE] = str(place / cache.name)
    stack.callback(os.environ.pop, AUTOTUNER_VARIABLE, None)


def _start(directory: Path, entry: TensorrtLlmEntry, *, sampled: bool) -> Any:
    arguments = read_yaml(directory / LLM_CONFIG, "arguments of the LLM API", EngineError)
    if not isinstance(arguments, dict):
        raise EngineError(f"{directory / LLM_CONFIG} is not a mapping: run spec-cascade build again")
    placed = placed_arguments(arguments, str(entry.target.path(directory)), str(entry.drafter.path(directory)))
    import_package()
    try:
        from tensorrt_llm import LLM
        from tensorrt_llm.llmapi.llm_args import update_llm_args_with_extra_dict

        ready = update_llm_args_with_extra_dict({}, placed | {"skip_tokenizer_init": True})
        # Not a field: it says whether TensorRT-LLM may draft by argmax in one go, or asks the sampler for each token.
        ready["speculative_config"]._allow_greedy_draft_tokens = not sampled
        return LLM(**ready)
    except SpecCascadeError:
        raise  # ours, from where the sampler is made in this process
    except Exception as error:  # its own, pydantic's, CUDA's, a worker's
        raise EngineError(f"TensorRT-LLM does not start: {type(error).__name__}: {error}") from error


def _admission(directory: Path, manifest: Manifest) -> Admission:
    defaults, vocabulary = manifest.defaults, manifest.vocabulary
    tokenizer = Tokenizer.load(directory / "tokenizer")
    return Admission(
        EngineLimits(
            max_batch_size=defaults.max_batch_size,
            max_seq_len=defaults.max_seq_len,
            # TensorRT-LLM drafts this many in every round.
            max_draft_length=defaults.draft_length,
            max_queue_size=defaults.max_queue_size,
            vocab_size=vocabulary.vocab_size,
            default_rule=parse_rule(defaults.rule),
            default_draft_length=defaults.draft_length,
        ),
        StopConditions(
            frozenset(vocabulary.eos_token_ids),
            defaults.max_seq_len,
            partial(stop_cut, tokenizer),
        ),
        "sampled" if defaults.draft_mode == "sampled" else "argmax",
        partial(bad_word_sequences, tokenizer),
    )
