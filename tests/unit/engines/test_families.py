"""The slot cache and the ragged attention give the logits that the untouched modelling code gives, family by family."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
import transformers

from spec_cascade.decoding.models import Feed
from spec_cascade.engines import open_engine
from spec_cascade.engines.manifest import FileEntry, Manifest
from spec_cascade.engines.pytorch.families import check_attention, check_config, check_context, longest_context
from spec_cascade.engines.pytorch.load import load_target
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.errors import EngineError
from tests.tiny import cached

if TYPE_CHECKING:
    from pathlib import Path

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
    "Olmo2": {},
    "Starcoder2": {"sliding_window": 5},
    "GPTNeoX": {"num_key_value_heads": None},
    "Mixtral": {"num_local_experts": 4},
    "Cohere2": {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]},
}


def config_of(family: str, **settings: object) -> transformers.PretrainedConfig:
    sizes = {k: v for k, v in {**SIZES, **settings}.items() if v is not None or k.endswith("_id")}
    config: transformers.PretrainedConfig = getattr(transformers, f"{family}Config")(**sizes)
    return config


def model_of(family: str, **settings: object) -> transformers.PreTrainedModel:
    torch.manual_seed(0)
    config = config_of(family, **settings)
    model: transformers.PreTrainedModel = transformers.AutoModelForCausalLM.from_config(config)
    return model.eval().float()


def ours(model: transformers.PreTrainedModel, slots: int) -> CachedModel:
    return cached(model, slots, 64)


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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_runs_exactly_is_let_in(family: str) -> None:
    model = model_of(family, **FAMILIES[family])
    before = model(torch.tensor([[1, 2, 3]])).logits
    check_config(model.config, "target")
    copy = ours(model, slots=1)
    check_attention(copy._model, "target")
    torch.testing.assert_close(copy.forward([Feed(0, [1, 2, 3], rows=3)]), before[0], atol=2e-4, rtol=2e-4)


REFUSED_BY_CONFIG = {
    "Mamba": ({}, "Mamba.* recurrent state"),
    "Jamba": ({}, "Jamba.* recurrent state"),
    "Rwkv": ({}, "Rwkv.* recurrent state"),
    "Qwen3Next": ({"layer_types": ["linear_attention", "full_attention"]}, "Qwen3Next.* recurrent state"),
    "RecurrentGemma": ({}, "RecurrentGemma.* attention interface"),
    "MiniMax": ({"layer_types": ["full_attention", "linear_attention"]}, "MiniMax.* linear_attention"),
    "Lfm2": ({"layer_types": ["conv", "full_attention"]}, "Lfm2.* conv"),
    "Llama4Text": ({}, "Llama4.* chunked_attention"),
    "Gemma2": ({"head_dim": 8}, "Gemma2.*attn_logit_softcapping"),
    "Gemma3n": ({}, "Gemma3n.* more than text"),
    "DeepseekV3": ({"num_key_value_heads": 4}, "DeepseekV3.*kv_lora_rank"),
    "T5": ({}, "T5.* encoder-decoder"),
    "Bart": ({}, "Bart.* encoder-decoder"),
    "Bloom": ({}, "Bloom.* attention interface"),
    "Mpt": ({}, "Mpt.* attention interface"),
    "Falcon": ({}, "Falcon.* attention interface"),
    "StableLm": ({}, "StableLm.* attention interface"),
    "CLIP": ({}, "CLIPConfig.* (more than text|no decoder)"),
}


@pytest.mark.parametrize("family", REFUSED_BY_CONFIG)
def test_a_family_is_refused_by_name_before_its_weights_are_read(family: str) -> None:
    settings, message = REFUSED_BY_CONFIG[family]
    config = getattr(transformers, f"{family}Config")() if not settings else config_of(family, **settings)
    with pytest.raises(EngineError, match=f"^the drafter is a {message}"):
        check_config(config, "drafter")


REFUSED_BY_LAYERS = {
    "GptOss": ({"head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1}, "sinks"),
    "Doge": ({}, "attention_mask"),
    "OPT": ({"num_key_value_heads": None, "word_embed_proj_dim": 32, "ffn_dim": 48}, "attention_mask"),
    "GPT2": ({"num_key_value_heads": None}, "keyword arguments"),
    "FlexOlmo": ({"num_experts": 2, "num_experts_per_tok": 1}, "keyword arguments"),
    "Gemma3Text": ({"head_dim": 8, "use_bidirectional_attention": True}, "later ones"),
}


@pytest.mark.parametrize("family", REFUSED_BY_LAYERS)
def test_a_family_is_refused_by_what_its_layers_ask_of_their_attention(family: str) -> None:
    settings, message = REFUSED_BY_LAYERS[family]
    model = model_of(family, **settings)
    check_config(model.config, "target")
    with pytest.raises(EngineError, match=f"^the target is a {type(model).__name__}, .*{message}"):
        check_attention(model, "target")


def test_a_window_that_the_attention_function_is_not_told_is_refused() -> None:
    model = model_of("Llama")
    model.config.sliding_window = 4
    with pytest.raises(EngineError, match="layer 0 slides"):
        check_attention(model, "target")


def test_attention_that_cannot_be_done_exactly_fails_in_the_attention_function_too() -> None:
    cached = ours(model_of("Gemma2", head_dim=8, attn_logit_softcapping=50.0), slots=1)
    with pytest.raises(EngineError, match="caps its attention scores"):
        cached.forward([Feed(0, [1], rows=1)])


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("settings", "longest"),
    [
        ({}, 128),
        ({"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 128),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}, 128),
        ({"rope_scaling": YARN}, 128),
        ({"rope_scaling": YARN, "max_position_embeddings": 32}, 128),
        ({"rope_scaling": YARN | {"factor": 8.0}}, 256),
    ],
)
def test_rope_scaling_says_how_long_a_text_may_be(settings: dict[str, Any], longest: int) -> None:
    assert longest_context(config_of("Llama", **settings)) == longest


def test_long_rope_ends_where_it_would_rotate_what_is_already_cached() -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = config_of("Phi3", rope_scaling=scaling, original_max_position_embeddings=32)
    assert longest_context(config) == 32
    with pytest.raises(EngineError, match=r"max_seq_len = 33 is beyond the drafter's 32 positions"):
        check_context(config, 33, "drafter")
    check_context(config, 32, "drafter")


def changed_engine(engine: Path, directory: Path, file: str, **settings: object) -> Path:
    """A copy of an engine directory whose ``file``, JSON, has other settings; its manifest agrees."""
    shutil.copytree(engine, directory)
    path = directory / file
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    manifest = Manifest.read(directory)
    manifest.files[file] = FileEntry.of(path)
    manifest.write(directory)
    return directory


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("target/config.json", {"model_type": "mamba"}, "the target is a Mamba"),
        ("drafter/config.json", {"model_type": "bloom"}, "the drafter is a Bloom"),
        ("drafter/config.json", {"max_position_embeddings": 100}, "128 is beyond the drafter's 100 positions"),
        ("target/config.json", {"model_type": "no_such"}, "target/ cannot be loaded"),
    ],
)
def test_an_engine_that_cannot_run_exactly_does_not_open(
    built_engine: Path, tmp_path: Path, file: str, settings: dict[str, object], message: str
) -> None:
    engine = changed_engine(built_engine, tmp_path / "changed", file, **settings)
    with pytest.raises(EngineError, match=message):
        open_engine(engine)


def test_code_beside_a_configuration_is_not_run(tmp_path: Path) -> None:
    directory, marker = tmp_path / "target", tmp_path / "ran"
    directory.mkdir()
    auto_map = {"AutoConfig": "novel.Config", "AutoModelForCausalLM": "novel.Model"}
    (directory / "config.json").write_text(json.dumps({"model_type": "novel", "auto_map": auto_map}))
    (directory / "novel.py").write_text(f"open({str(marker)!r}, 'w').close()")
    with pytest.raises(EngineError, match=r"target/ cannot be loaded: .*contains custom code"):
        load_target(directory, torch.float32, torch.device("cpu"))
    assert not marker.exists()
