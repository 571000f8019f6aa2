"""A pair that was checked: all that is known without a GPU and without weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

from spec_cascade.engines.tensorrt_llm.gpus import Gpu
from spec_cascade.errors import ConfigError
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import step
from spec_cascade_build.sources import Checkpoint
from spec_cascade_build.tensorrt_llm.checks import check_models, ranks_that_divide
from spec_cascade_build.tensorrt_llm.configs import Configs, find_configs
from spec_cascade_build.tensorrt_llm.facts import ModelFacts, read_facts
from spec_cascade_build.tensorrt_llm.gpus import GIB, GPUS, planned_gpu
from spec_cascade_build.tensorrt_llm.memory import Load, MemoryPlan, plan_memory
from spec_cascade_build.tensorrt_llm.shared_vocabulary import SharedVocabulary, shared_vocabulary, tokenizers_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection
    from spec_cascade_build.tensorrt_llm.weights import Formats


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPair:
    """What a check found.

    Attributes:
        target_configs: The target's configuration files.
        drafter_configs: The drafter's.
        target: The target's facts.
        drafter: The drafter's facts.
        formats: Number formats of target and drafter.
        vocabulary: What they share.
        tokenizer: The target's tokenizer; None where it is not there.
        memory: The memory plan.
    """

    target_configs: Configs
    drafter_configs: Configs
    target: ModelFacts
    drafter: ModelFacts
    formats: tuple[Formats, Formats]
    vocabulary: SharedVocabulary
    tokenizer: PreTrainedTokenizerFast | None
    memory: MemoryPlan


def check_pair(
    pair: Pair,
    pair_path: Path,
    configs: Path | None,
    console: Console,
    present: Callable[[], list[Gpu]] | None = None,
) -> CheckedPair:
    """Check a pair of `engine: tensorrt_llm` as far as that goes without a GPU and without weights.

    Args:
        pair: The pair.
        pair_path: Its file.
        configs: Configuration files of hub models; None asks the hub.
        console: Says what is fetched.
        present: Lists the machine's GPUs, for `gpu: this`; None asks the driver.

    Raises:
        PairError: A field does not fit the models or the GPU.
        BuildError: A model cannot be found or planned for, or the models do not share a vocabulary.
    """
    try:
        return _check(pair, pair_path.parent, configs, console, present)
    except ConfigError as error:
        raise PairError.of(pair_path, error) from None


def _check(
    pair: Pair, base: Path, configs: Path | None, console: Console, present: Callable[[], list[Gpu]] | None
) -> CheckedPair:
    section, drafter_source = pair.tensorrt_llm, pair.drafter
    if section is None or drafter_source is None:
        raise ValueError("not a pair of engine tensorrt_llm")
    gpu = planned_gpu(section.gpu, present)
    found = [find_configs(source, base, configs, console) for source in (pair.target, drafter_source)]
    target, drafter = (read_facts(f.directory, w) for f, w in zip(found, ("target", "drafter"), strict=True))
    formats = check_models(target, drafter, gpu, section, pair.defaults)
    tokenizers = _tokenizers(found, console) if tokenizers_in(found[0].directory, found[1].directory) else None
    vocabulary = shared_vocabulary(target, drafter, tokenizers)
    load = _load(pair, section)
    memory = plan_memory(target, drafter, formats, gpu, load)
    if not memory.sequences:
        _refuse_memory(target, drafter, formats, memory, load)
    if load.fraction is not None and load.fraction > memory.most_free_fraction:
        allowed = f"at most {memory.most_free_fraction}: rounds with drafts need the rest"
        raise ConfigError("tensorrt_llm.free_gpu_memory_fraction", load.fraction, allowed)
    return CheckedPair(
        target_configs=found[0],
        drafter_configs=found[1],
        target=target,
        drafter=drafter,
        formats=formats,
        vocabulary=vocabulary,
        tokenizer=None if tokenizers is None else tokenizers[0],
        memory=memory,
    )


def _tokenizers(found: list[Configs], console: Console) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    from spec_cascade_build.checkpoints import read_tokenizer

    with step(console, "comparing the tokenizers"):
        target, drafter = (read_tokenizer(Checkpoint(f.directory, None, f.title)) for f in found)
    return target, drafter


def _load(pair: Pair, section: TensorrtLlmSection) -> Load:
    defaults = pair.defaults
    return Load(
        ranks=section.tensor_parallel_size,
        max_batch_size=defaults.max_batch_size,
        draft_length=defaults.draft_length,
        max_seq_len=defaults.max_seq_len,
        max_num_tokens=section.max_num_tokens,
        num_graphs=len(section.graph_batch_sizes(defaults.max_batch_size)),
        margin=int(section.free_memory_margin_gib * GIB),
        fraction=section.free_gpu_memory_fraction,
        max_tokens=section.max_kv_tokens,
    )


def _refuse_memory(
    target: ModelFacts, drafter: ModelFacts, formats: tuple[Formats, Formats], memory: MemoryPlan, load: Load
) -> NoReturn:
    """Not one request of the greatest length fits: say what would."""
    if load.max_tokens is not None and load.max_tokens < load.tokens_per_sequence:
        allowed = f"at least {load.tokens_per_sequence}, which one request of defaults.max_seq_len takes"
        raise ConfigError("tensorrt_llm.max_kv_tokens", load.max_tokens, allowed)

    def fits(gpu: Gpu, ranks: int) -> bool:
        plan = plan_memory(target, drafter, formats, gpu, replace(load, ranks=ranks, fraction=None))
        return plan.sequences > 0

    if load.fraction is not None and fits(memory.gpu, load.ranks):
        allowed = (
            f"larger or left out: it holds {memory.kv_tokens} tokens of KV, and one request of defaults.max_seq_len "
            f"takes {load.tokens_per_sequence}"
        )
        raise ConfigError("tensorrt_llm.free_gpu_memory_fraction", load.fraction, allowed)
    more = [n for n in ranks_that_divide(target, drafter) if n > load.ranks and fits(memory.gpu, n)]
    larger = [gpu.name for gpu in GPUS.values() if gpu.memory > memory.gpu.memory and fits(gpu, load.ranks)]
    ways = [f"tensor_parallel_size: {more[0]}"] if more else []
    ways += [f"gpu: {larger[0]}"] if larger else []
    if memory.kv_tokens:
        longest = memory.kv_tokens - load.draft_length
        ways.insert(0, f"a max_seq_len of at most {longest}")
        allowed = f"less, for {memory.kv_tokens} tokens of KV fit on {load.ranks} x {memory.gpu.name}: {_listed(ways)}"
        raise ConfigError("defaults.max_seq_len", load.max_seq_len, allowed)
    needed = sum(size for _, size, _ in (*memory.fixed, *memory.rounds)) / GIB
    has = memory.gpu.memory / GIB
    allowed = (
        f"a GPU with more memory: {needed:.1f} GiB are needed before the first token of KV, it has {has:.1f}: "
        f"{_listed(ways)}"
    )
    raise ConfigError("tensorrt_llm.gpu", memory.gpu.name, allowed)


def _listed(ways: list[str]) -> str:
    """What would fit, as a user would write it."""
    return f"{' or '.join(ways)} would fit" if ways else "nothing that is known would fit; quantise the models"
