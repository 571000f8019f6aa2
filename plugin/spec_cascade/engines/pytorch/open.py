"""From an engine directory to a running embedded engine."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.stop import StopConditions
from spec_cascade.decoding.text import stop_cut
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.engines.pytorch.drafters import ModelDrafter, PromptLookupDrafter
from spec_cascade.engines.pytorch.engine import PytorchEngine
from spec_cascade.engines.pytorch.load import load_drafter, load_target
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.errors import EngineError
from spec_cascade.rules import parse_rule

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Drafter
    from spec_cascade.engines.manifest import Manifest

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


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
        EngineError: A model cannot be loaded.
    """
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if manifest.target.dtype not in _DTYPES:
        raise EngineError(f"{directory}: dtype {manifest.target.dtype!r} is not known; allowed: {sorted(_DTYPES)}")
    model = load_target(directory / "target", dtype or _DTYPES[manifest.target.dtype], place)
    defaults = manifest.defaults
    drafter = _drafter(directory, manifest, model)
    return PytorchEngine(
        CachedModel(model, slots=defaults.max_batch_size, max_seq_len=defaults.max_seq_len),
        drafter,
        EngineLimits(
            max_batch_size=defaults.max_batch_size,
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
            partial(stop_cut, Tokenizer.load(directory / "tokenizer")),
        ),
        prefill_chunk=defaults.prefill_chunk,
        device=place,
        one_hot_drafts=isinstance(drafter, PromptLookupDrafter),
    )


def _drafter(directory: Path, manifest: Manifest, target: PreTrainedModel) -> Drafter | None:
    entry, defaults = manifest.drafter, manifest.defaults
    if entry.kind == "none":
        return None
    if entry.kind == "prompt_lookup":
        if entry.min_ngram is None or entry.max_ngram is None:
            raise EngineError(f"{directory}: the manifest's prompt_lookup drafter has no n-gram lengths")
        return PromptLookupDrafter(min_ngram=entry.min_ngram, max_ngram=entry.max_ngram, device=target.device)
    if entry.kind != "model":
        raise EngineError(f"{directory}: drafter {entry.kind!r} is not known; allowed: model, prompt_lookup, none")
    model = load_drafter(directory / "drafter", target)
    cached = CachedModel(model, slots=defaults.max_batch_size, max_seq_len=defaults.max_seq_len)
    return ModelDrafter(cached, vocab_size=manifest.vocabulary.vocab_size, prefill_chunk=defaults.prefill_chunk)
