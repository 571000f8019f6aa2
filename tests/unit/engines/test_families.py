"""The slot cache and the ragged attention give the logits that the untouched modelling code gives, family by family."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import transformers

from spec_cascade.decoding.models import Feed
from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.errors import EngineError

VOCAB = 64
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
FAMILIES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {"head_dim": 8},
    "Gemma": {"head_dim": 8},
    "Gemma3Text": {"head_dim": 8, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "Mistral": {"sliding_window": 7},
    "Phi": {"num_key_value_heads": 4},
    "Phi3": {},
}


def model_of(family: str, **settings: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **settings})
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    return model.eval().float()


def ours(model: transformers.PreTrainedModel, slots: int) -> CachedModel:
    copy = deepcopy(model)
    copy.set_attn_implementation(ATTENTION)
    return CachedModel(copy, slots=slots, max_seq_len=64)


@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_steps_give_the_rows_of_one_plain_forward(family: str) -> None:
    model = model_of(family, **FAMILIES[family])
    cached = ours(model, slots=4)
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(0, VOCAB, (4, 30), generator=generator)
    with torch.inference_mode():
        expected = model(texts).logits
    # Uneven prompts, then blocks of even and uneven lengths, one of them rolled back and fed again.
    schedule = [[3, 11, 1, 7], [1, 1, 1, 1], [5, 5, 5, 5], [5, 0, 2, 1], [1, 4, 4, 1]]
    seen = [0] * 4
    for step, lengths in enumerate(schedule):
        feeds = [
            Feed(slot, texts[slot, seen[slot] : seen[slot] + n].tolist(), rows=n) for slot, n in enumerate(lengths) if n
        ]
        logits = cached.forward(feeds)
        wanted = torch.cat([expected[f.slot, seen[f.slot] : seen[f.slot] + f.rows] for f in feeds])
        torch.testing.assert_close(logits, wanted, atol=2e-4, rtol=2e-4)
        for feed in feeds:
            seen[feed.slot] += len(feed.token_ids)
        if step == 2:
            cached.truncate(0, seen[0] - 3)
            seen[0] -= 3
    cached.move(3, 1)
    logits = cached.forward([Feed(1, texts[3, seen[3] : seen[3] + 2].tolist(), rows=1)])
    torch.testing.assert_close(logits[0], expected[3, seen[3] + 1], atol=2e-4, rtol=2e-4)


def test_rows_that_nobody_wants_are_not_computed() -> None:
    cached = ours(model_of("Llama"), slots=2)
    assert cached.forward([Feed(0, [1, 2, 3], rows=0), Feed(1, [4], rows=1)]).shape == (1, VOCAB)
    assert cached.length(0) == 3


def test_attention_that_cannot_be_done_exactly_is_refused_by_name() -> None:
    cached = ours(model_of("Gemma2", head_dim=8, attn_logit_softcapping=50.0), slots=1)
    with pytest.raises(EngineError, match="caps its attention scores"):
        cached.forward([Feed(0, [1], rows=1)])
