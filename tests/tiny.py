"""Tiny random models for tests: real modelling code, no downloads, milliseconds per forward."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from threading import Event
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from spec_cascade.decoding.stop import StopConditions
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.engines.pytorch.drafters import ModelDrafter, PromptLookupDrafter
from spec_cascade.engines.pytorch.engine import PytorchEngine
from spec_cascade.engines.pytorch.load import trim_head
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.rules import parse_rule

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Drafter

VOCAB = 96
CPU = torch.device("cpu")


def tiny_llama(seed: int = 0, layers: int = 3, vocab: int = VOCAB) -> PreTrainedModel:
    """A random Llama in float32 whose rows are peaked enough for greedy decoding to mean something."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.35,
        eos_token_id=None,
        bos_token_id=None,
        pad_token_id=None,
    )
    model: PreTrainedModel = LlamaForCausalLM(config)
    return model.eval()


def noisy(model: PreTrainedModel, scale: float, seed: int = 1) -> PreTrainedModel:
    """A drafter that agrees with ``model`` some of the time: its weights plus relative noise."""
    generator = torch.Generator().manual_seed(seed)
    copy = deepcopy(model)
    with torch.no_grad():
        for weight in copy.parameters():
            weight += scale * weight.std() * torch.randn(weight.shape, generator=generator)
    return copy


def trimmed(model: PreTrainedModel, known: Sequence[int]) -> PreTrainedModel:
    """A copy of the model that knows some tokens only."""
    copy = deepcopy(model)
    trim_head(copy, torch.tensor(known))
    return copy


def under_our_attention(model: PreTrainedModel, device: torch.device | str = CPU) -> PreTrainedModel:
    """A copy of the model that a `CachedModel` can run."""
    copy = deepcopy(model).to(device)
    copy.set_attn_implementation(ATTENTION)
    return copy


def cached(model: PreTrainedModel, slots: int, max_seq_len: int) -> CachedModel:
    """A copy of the model with a cache."""
    return CachedModel(under_our_attention(model), slots=slots, max_seq_len=max_seq_len)


def engine_over(
    target: CachedModel,
    drafter: Drafter | None,
    *,
    max_draft_length: int,
    max_queue_size: int,
    prefill_chunk: int,
    draft_length: int,
    vocab_size: int = VOCAB,
    rule: str = "strict",
    eos: frozenset[int] = frozenset(),
    fallback: bool = False,
) -> PytorchEngine:
    """The real engine, with as many and as long requests as the target's cache has room for."""
    slots, max_seq_len = len(target.cache.lengths), target.cache.max_seq_len
    return PytorchEngine(
        target,
        drafter,
        EngineLimits(
            max_batch_size=slots,
            max_seq_len=max_seq_len,
            max_draft_length=max_draft_length,
            max_queue_size=max_queue_size,
            vocab_size=vocab_size,
            default_rule=parse_rule(rule),
            default_draft_length=draft_length,
        ),
        StopConditions(eos, max_seq_len),
        prefill_chunk=prefill_chunk,
        device=CPU,
        fallback=fallback,
    )


def tiny_engine(
    target: PreTrainedModel,
    drafter: PreTrainedModel | str | None,
    *,
    max_batch_size: int = 8,
    max_seq_len: int = 160,
    max_queue_size: int = 64,
    prefill_chunk: int = 16,
    draft_length: int = 4,
    rule: str = "strict",
    eos: frozenset[int] = frozenset(),
    fallback: bool = False,
    argmax: bool = False,
    confidence: float = 0.0,
    known: Sequence[int] | None = None,
) -> PytorchEngine:
    """The real engine over tiny models; ``drafter="lookup"`` is prompt lookup, ``known`` trims a drafter's head."""
    vocab = target.config.vocab_size
    proposer: Drafter | None = None
    if drafter == "lookup":
        proposer = PromptLookupDrafter(min_ngram=1, max_ngram=3, device=CPU)
    elif drafter is not None:
        assert not isinstance(drafter, str)
        proposer = ModelDrafter(
            cached(drafter if known is None else trimmed(drafter, known), max_batch_size, max_seq_len),
            vocab_size=vocab,
            prefill_chunk=prefill_chunk,
            head=None if known is None else torch.tensor(known),
            argmax=argmax,
            confidence=confidence,
        )
    return engine_over(
        cached(target, max_batch_size, max_seq_len),
        proposer,
        max_draft_length=16,
        max_queue_size=max_queue_size,
        prefill_chunk=prefill_chunk,
        draft_length=draft_length,
        vocab_size=vocab,
        rule=rule,
        eos=eos,
        fallback=fallback,
    )


@contextmanager
def standing_still(engine: PytorchEngine) -> Iterator[None]:
    """An engine that begins no round, whatever is submitted meanwhile."""
    go, step = Event(), engine._loop.step

    def held() -> None:
        assert go.wait(60)
        step()

    with patch.object(engine._loop, "step", held):
        try:
            yield
        finally:
            go.set()
