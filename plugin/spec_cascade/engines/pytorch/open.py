"""From an engine directory to a running embedded engine."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

import torch
from transformers import AutoConfig

from spec_cascade.decoding.stop import StopConditions
from spec_cascade.decoding.text import stop_cut
from spec_cascade.decoding.tokenizer import Tokenizer, bad_word_sequences
from spec_cascade.engines.manifest import CompiledEntry
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.engines.pytorch.compiled import FILE_NAME, INT8_FILE_NAME, CompiledForward
from spec_cascade.engines.pytorch.drafters import ModelDrafter, PromptLookupDrafter
from spec_cascade.engines.pytorch.engine import PytorchEngine
from spec_cascade.engines.pytorch.families import check_attention, check_config, check_context
from spec_cascade.engines.pytorch.load import DTYPES, head_tokens, load_drafter, load_target
from spec_cascade.engines.pytorch.memory import MemoryPlan, ModelSize, free_bytes, plan_memory, weight_bytes
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.errors import EngineError
from spec_cascade.rules import parse_rule

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Drafter
    from spec_cascade.engines.manifest import EngineDefaults, Manifest

log = logging.getLogger(__name__)


def open_pytorch(
    directory: Path, manifest: Manifest, *, device: str | None = None, dtype: torch.dtype | None = None
) -> PytorchEngine:
    """Load both models and start the engine.

    Args:
        directory: The engine directory.
        manifest: Its manifest.
        device: Where to run; None takes CUDA where there is one.
        dtype: Type to compute in; None takes the one that the weights are stored in.

    Raises:
        EngineError: A model cannot be loaded, is of a family that cannot be run exactly, or does not fit into memory.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    defaults = manifest.defaults
    free = free_bytes(place)
    model = runnable_target(directory, manifest, place, dtype)
    small = runnable_drafter(directory, manifest, model) if manifest.drafter.kind == "model" else None
    compiled = usable_packages(directory, manifest, place, dtype)
    plan = _plan([model] if small is None else [model, small], compiled, defaults, free)
    drafter = _drafter(directory, manifest, model, small, plan, compiled)
    tokenizer = Tokenizer.load(directory / "tokenizer")
    return PytorchEngine(
        _cached(model, plan, compiled.get("target")),
        drafter,
        EngineLimits(
            max_batch_size=plan.slots,
            max_seq_len=defaults.max_seq_len,
            max_draft_length=defaults.max_draft_length,
            max_queue_size=defaults.max_queue_size,
            vocab_size=manifest.vocabulary.vocab_size,
            default_rule=parse_rule(defaults.rule),
            default_draft_length=defaults.draft_length,
        ),
        StopConditions(
            frozenset(manifest.vocabulary.eos_token_ids),
            defaults.max_seq_len,
            partial(stop_cut, tokenizer),
        ),
        prefill_chunk=defaults.prefill_chunk,
        device=place,
        fallback=defaults.fallback,
        bad_word_ids=partial(bad_word_sequences, tokenizer),
    )


def _check(directory: Path, max_seq_len: int) -> None:
    """Refuse, before its weights are read, a model that the engine cannot run; its role is its directory's name."""
    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{directory.name}/ cannot be loaded: {error}") from error
    check_config(config, directory.name)
    check_context(config, max_seq_len, directory.name)


def runnable_target(
    directory: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype | None = None
) -> PreTrainedModel:
    """Load the target of an engine directory.

    Raises:
        EngineError: It cannot be loaded, or not be run exactly.
    """
    if manifest.target.dtype not in DTYPES:
        raise EngineError(f"{directory}: dtype {manifest.target.dtype!r} is not known; allowed: {sorted(DTYPES)}")
    _check(directory / "target", manifest.defaults.max_seq_len)
    model = load_target(directory / "target", dtype or DTYPES[manifest.target.dtype], device)
    check_attention(model, "target")
    return model


def runnable_drafter(directory: Path, manifest: Manifest, target: PreTrainedModel) -> PreTrainedModel:
    """Load the drafter, a model, of an engine directory.

    Raises:
        EngineError: It cannot be loaded, or not be run exactly.
    """
    _check(directory / "drafter", manifest.defaults.max_seq_len)
    model = load_drafter(directory / "drafter", target)
    check_attention(model, "drafter")
    return model


def usable_packages(
    directory: Path, manifest: Manifest, device: torch.device, dtype: torch.dtype | None = None
) -> dict[str, Path]:
    """The compiled models, by their roles, where this machine can run them and they compute what is asked for."""
    entry = manifest.compiled
    if entry is None or device.type != "cpu" or dtype not in (None, DTYPES[manifest.target.dtype]):
        return {}
    here = CompiledEntry.here()
    if entry != here:
        log.warning(
            "%s was compiled by torch %s for %s; here is torch %s on %s: the models run uncompiled, which is slower; "
            "run spec-cascade build on this machine",
            *(directory, entry.torch, entry.processor, here.torch, here.processor),
        )
        return {}
    packages = {role: directory / role / FILE_NAME for role in ("target", "drafter")}
    return {role: package for role, package in packages.items() if package.is_file()}


def _cached(model: PreTrainedModel, plan: MemoryPlan, package: Path | None) -> CachedModel:
    forward = None if package is None else CompiledForward.load(package)
    return CachedModel(model, slots=plan.slots, max_seq_len=plan.max_seq_len, compiled=forward)


def _plan(models: list[PreTrainedModel], compiled: dict[str, Path], defaults: EngineDefaults, free: int) -> MemoryPlan:
    plan = plan_memory(
        [ModelSize.of(model) for model in models],
        free=free,
        weights=weight_bytes(*models) + sum(map(_package_bytes, compiled.values())),
        max_batch_size=defaults.max_batch_size,
        max_seq_len=defaults.max_seq_len,
        max_draft_length=defaults.max_draft_length,
        prefill_chunk=defaults.prefill_chunk,
    )
    plan.report()
    return plan


def _package_bytes(package: Path) -> int:
    int8 = package.with_name(INT8_FILE_NAME)
    return sum(file.stat().st_size for file in (package, int8) if file.is_file())


def _drafter(
    directory: Path,
    manifest: Manifest,
    target: PreTrainedModel,
    small: PreTrainedModel | None,
    plan: MemoryPlan,
    compiled: dict[str, Path],
) -> Drafter | None:
    entry, defaults = manifest.drafter, manifest.defaults
    if small is not None:
        return ModelDrafter(
            _cached(small, plan, compiled.get("drafter")),
            vocab_size=manifest.vocabulary.vocab_size,
            prefill_chunk=defaults.prefill_chunk,
            head=head_tokens(directory / "drafter", manifest.vocabulary.vocab_size),
            argmax=defaults.draft_mode == "argmax",
            confidence=defaults.draft_confidence,
        )
    if entry.kind == "none":
        return None
    if entry.kind != "prompt_lookup":
        raise EngineError(f"{directory}: drafter {entry.kind!r} is not known; allowed: model, prompt_lookup, none")
    if entry.min_ngram is None or entry.max_ngram is None:
        raise EngineError(f"{directory}: the manifest's prompt_lookup drafter has no n-gram lengths")
    return PromptLookupDrafter(min_ngram=entry.min_ngram, max_ngram=entry.max_ngram, device=target.device)
