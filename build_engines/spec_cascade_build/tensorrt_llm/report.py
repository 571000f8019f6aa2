"""What `--check` and `--dry-run` print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from spec_cascade.engines.manifest import AUTOTUNER_CACHE, FILE_NAME, LLM_CONFIG
from spec_cascade_build.tensorrt_llm.gpus import GIB
from spec_cascade_build.tensorrt_llm.llm_manifest import planned_manifest
from spec_cascade_build.tensorrt_llm.plan import work_directory
from spec_cascade_build.tensorrt_llm.weights import num_parameters

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.checked import CheckedPair
    from spec_cascade_build.tensorrt_llm.configs import Configs
    from spec_cascade_build.tensorrt_llm.facts import ModelFacts
    from spec_cascade_build.tensorrt_llm.memory import MemoryPlan
    from spec_cascade_build.tensorrt_llm.plan import BuildPlan
    from spec_cascade_build.tensorrt_llm.weights import Formats


def print_check(pair: Pair, checked: CheckedPair, console: Console) -> None:
    """Print what was checked, the memory table and what to know.

    Args:
        pair: The pair.
        checked: What the check found.
        console: Where to.
    """
    for whose, configs, facts, formats in (
        ("target", checked.target_configs, checked.target, checked.formats[0]),
        ("drafter", checked.drafter_configs, checked.drafter, checked.formats[1]),
    ):
        _line(console, f"{whose}: {_model(configs, facts, formats)}")
    console.print(_table(checked.memory, pair))
    for note in notes(pair, checked):
        _line(console, f"note: {note}")
    _line(console, f"{pair.name}: checked, no GPU and no weights were needed")


def print_plan(plan: BuildPlan, pair: Pair, checked: CheckedPair, directory: Path, console: Console) -> None:
    """Print every command and every file of a build, in their order.

    Args:
        plan: The build.
        pair: The pair.
        checked: What the check found.
        directory: The engine directory.
        console: Where to.
    """
    for role, source, configs in (
        ("target", pair.target, checked.target_configs),
        ("drafter", pair.drafter, checked.drafter_configs),
    ):
        if source is not None and source.hub is not None:
            _line(console, f"fetch {role}: {source.hub} at {configs.commit or source.revision or 'main'}")
    work = work_directory(directory)
    _line(console, f"write: {work}/ (while it runs; logs and finished checkpoints stay there if it fails)")
    for command in plan.quantise.values():
        _line(console, f"run: {command}")
    for role in plan.quantise:
        _line(console, f"write: {directory / role}/ (config.json, hf_quant_config.json, *.safetensors, by ModelOpt)")
    _line(console, f"write: {directory / 'tokenizer'}/ (tokenizer.json and its kin, the target's)")
    _line(console, f"write: {directory / LLM_CONFIG}")
    for line in plan.llm_config.splitlines():
        _line(console, f"    {line}")
    _line(console, f"run: {plan.warm_up}")
    _line(console, f"write: {(directory / AUTOTUNER_CACHE).parent}/ (kernels that were found fast, by TensorRT-LLM)")
    for command in (*plan.quantise.values(), plan.warm_up):
        _line(console, f"write: {directory / 'logs' / command.name}.log")
    _line(console, f"write: {directory / FILE_NAME}, with the hashes of these files and the versions that made them")
    for line in json.dumps(asdict(planned_manifest(pair, checked)), indent=2, sort_keys=True).splitlines():
        _line(console, f"    {line}")
    _line(console, f"{pair.name}: nothing was run and nothing was written")


def notes(pair: Pair, checked: CheckedPair) -> list[str]:
    """What is right, but worth knowing."""
    memory, found = checked.memory, []
    wanted = pair.defaults.max_batch_size
    if memory.sequences < wanted:
        found.append(
            f"{memory.sequences} requests of defaults.max_seq_len fit at a time, not all {wanted}: "
            "where long ones meet, some wait"
        )
    if not checked.vocabulary.compared:
        found.append("the tokenizers were not compared: there is no tokenizer.json for both; a build compares them")
    if checked.vocabulary.left_out:
        tokens = ", ".join(checked.vocabulary.left_out)
        found.append(f"special tokens that only one model has a row for are no tokens of this engine: {tokens}")
    if checked.target.sliding_layers or checked.drafter.sliding_layers:
        found.append("layers with sliding windows keep the whole KV: the windows of two models cannot be told apart")
    if memory.max_tokens is not None and (pair.tensorrt_llm is None or pair.tensorrt_llm.max_kv_tokens is None):
        found.append(
            f"kv_cache_config.max_tokens is set to {memory.max_tokens}: GPUs share heads of keys and values, "
            "which TensorRT-LLM does not count"
        )
    return found


def _model(configs: Configs, facts: ModelFacts, formats: Formats) -> str:
    commit = f" at {configs.commit[:12]}" if configs.commit else ""
    return (
        f"{configs.title}{commit}, {facts.architecture}, {num_parameters(facts) / 1e9:.2f} B parameters, "
        f"{formats.weights or 'bfloat16'} weights, {formats.kv_cache or 'bfloat16'} KV, {facts.logits} logits"
    )


def _table(memory: MemoryPlan, pair: Pair) -> Table:
    ranks = 1 if pair.tensorrt_llm is None else pair.tensorrt_llm.tensor_parallel_size
    table = Table(box=SIMPLE_HEAD, title=f"Memory of each of {ranks} x {memory.gpu.name}", title_justify="left")
    table.add_column("what")
    table.add_column("GiB", justify="right")
    table.add_column("", style="dim")
    for what, size, estimated in memory.fixed:
        table.add_row(what, _gib(size), "estimate" if estimated else "")
    target, drafter = (memory.kv_tokens * each for each in (memory.target_kv, memory.drafter_kv))
    percent = 100 * memory.target_kv / (memory.target_kv + memory.drafter_kv)
    table.add_row("target KV", _gib(target), f"{memory.target_kv:,.0f} bytes a token, {percent:.1f} % of the KV")
    table.add_row(
        "drafter KV", _gib(drafter), f"{memory.drafter_kv:,.0f} bytes a token, {100 - percent:.1f} % of the KV"
    )
    for what, size, estimated in memory.rounds:
        table.add_row(what, _gib(size), "estimate" if estimated else "")
    used = sum(size for _, size, _ in (*memory.fixed, *memory.rounds)) + target + drafter
    table.add_row("left", _gib(memory.gpu.memory - used), "")
    table.add_section()
    table.add_row("all", _gib(memory.gpu.memory), "")
    table.caption = (
        f"{memory.kv_tokens:,} tokens of KV: {memory.sequences} requests of {memory.tokens_per_sequence:,}; "
        f"free_gpu_memory_fraction {memory.free_fraction}"
    )
    table.caption_justify = "left"
    return table


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}"


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
