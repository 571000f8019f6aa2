"""What is read from a `config.json`: held against transformers, which builds each model without its weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.facts import read_facts
from spec_cascade_build.tensorrt_llm.families import FAMILIES
from spec_cascade_build.tensorrt_llm.weights import num_parameters
from tests.unit.build.checkpoints import save_checkpoint
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, GEMMA_1B, GEMMA_27B, LLAMA_1B, LLAMA_8B, LLAMA_70B

if TYPE_CHECKING:
    from pathlib import Path

# Model id -> the SHA-256 of its published config.json at the commit that the pair files name, and its parameters as
# the hub counts them (of Qwen3 0.6B, whose file has the tied head twice, without the second one).
PUBLISHED = {
    LLAMA_70B: ("95ef9768e4741543dbfaf0c274f101855883ff338b235c99eca2b6a4f4abee12", 70_553_706_496),
    LLAMA_8B: ("29e4c210b0d6ac178b16b2a255a568bdb23b581e50ca1ef6a6d071dd85704e6e", 8_030_261_248),
    LLAMA_1B: ("2febf68cea25bf4611be02b7536f2488a5ba523bb1134986e3610152abe74fdb", 1_235_814_400),
    "Qwen/Qwen3-32B": ("97e295b63283935788fac5e4f8860862a56d4089538cafc93f0431f2ebe483bb", 32_762_123_264),
    "Qwen/Qwen3-0.6B": ("660db3b73d788119c04535e48cf9be5f55bc3100841a718637ae695b442f27dd", 596_049_920),
    GEMMA_27B: ("cabd884f5e0d4f01a5bd7fe14bd4bacd0bd83f3725a02acbdc4e72dc001835fa", 27_432_406_640),
    GEMMA_1B: ("19cb5d28c97778271ba2b3c3df47bf76bdd6706724777a2318b3522230afe91e", 999_885_952),
}


@pytest.mark.parametrize("model", PUBLISHED)
def test_the_configurations_here_are_the_published_ones(model: str) -> None:
    content = (CHECKPOINTS / model / "config.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED[model][0]


@pytest.mark.parametrize("model", PUBLISHED)
def test_parameters_are_the_published_ones(model: str) -> None:
    assert num_parameters(read_facts(CHECKPOINTS / model, "target")) == PUBLISHED[model][1]


@pytest.mark.parametrize("model", PUBLISHED)
def test_facts_are_transformers(model: str) -> None:
    config = AutoConfig.from_pretrained(CHECKPOINTS / model)
    facts = read_facts(CHECKPOINTS / model, "target")
    text = config.get_text_config()
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    assert facts.logits == whole.get_output_embeddings().weight.shape[0]
    assert num_parameters(facts) == sum(p.numel() for p in whole.parameters())
    assert facts.tied == (whole.get_output_embeddings().weight is whole.get_input_embeddings().weight)
    assert (facts.layers, facts.hidden, facts.intermediate) == (
        text.num_hidden_layers,
        text.hidden_size,
        text.intermediate_size,
    )
    assert (facts.heads, facts.kv_heads, facts.head_dim) == (
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
    )
    assert facts.max_positions == text.max_position_embeddings
    kinds = getattr(text, "layer_types", None) or []
    assert facts.sliding_layers == sum(kind == "sliding_attention" for kind in kinds)
    assert facts.architecture == type(whole).__name__


@pytest.mark.parametrize(
    "change",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"tie_word_embeddings": True},
        {"head_dim": 32},
    ],
)
def test_variants_of_a_family_are_counted(tmp_path: Path, change: dict[str, Any]) -> None:
    _same_count_as_transformers(tmp_path, LLAMA_1B, {"hidden_size": 64, "intermediate_size": 96, **change})


GEMMA_4B = {
    "architectures": ["Gemma3ForConditionalGeneration"],
    "model_type": "gemma3",
    "text_config": {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "sliding_window": 1024,
    },
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 896,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
        "vision_use_head": False,
    },
}


def test_what_gemma_leaves_out_is_transformers_default(tmp_path: Path) -> None:
    """Gemma 3 4B is published without the numbers of its heads and their width."""
    (tmp_path / "config.json").write_text(json.dumps(GEMMA_4B))
    text = AutoConfig.from_pretrained(tmp_path).get_text_config()
    facts = read_facts(tmp_path, "target")
    assert (facts.heads, facts.kv_heads, facts.head_dim, facts.logits, facts.max_positions) == (
        text.num_attention_heads,
        text.num_key_value_heads,
        text.head_dim,
        text.vocab_size,
        text.max_position_embeddings,
    )
    assert facts.sliding_layers == text.layer_types.count("sliding_attention")
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    assert num_parameters(facts) == sum(p.numel() for p in whole.parameters())


def test_gemmas_defaults_are_transformers() -> None:
    defaults = FAMILIES["gemma3_text"].defaults
    theirs = Gemma3TextConfig()
    pattern = theirs.layer_types.index("full_attention") + 1
    found = {name: pattern if name == "sliding_window_pattern" else getattr(theirs, name) for name in defaults}
    assert found == defaults


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_families_without_a_pair_file_are_counted(tmp_path: Path, family: str) -> None:
    names = {"mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM"}
    change = {"model_type": family, "architectures": [names[family]], "hidden_size": 64, "intermediate_size": 96}
    _same_count_as_transformers(tmp_path, "Qwen/Qwen3-0.6B", {**change, "head_dim": 16, "num_attention_heads": 4})


def test_end_ids_are_those_of_the_generation_configuration(tmp_path: Path) -> None:
    save_checkpoint(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 2]}))
    assert read_facts(tmp_path, "target").eos_token_ids == (7, 2)
    (tmp_path / "generation_config.json").unlink()
    assert read_facts(tmp_path, "target").eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("files", "weights", "kv_cache"),
    [
        ({"hf_quant_config.json": {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}}}, "FP8", "FP8"),
        ({"hf_quant_config.json": {"quantization": {"quant_algo": "NVFP4"}}}, "NVFP4", None),
        ({"config.json": {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}}, "FP8", None),
        (
            {"config.json": {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}},
            "FP8_BLOCK_SCALES",
            None,
        ),
    ],
)
def test_a_quantised_checkpoint_is_known_as_one(
    tmp_path: Path, files: dict[str, dict[str, Any]], weights: str, kv_cache: str | None
) -> None:
    _copy(tmp_path, LLAMA_1B, files.pop("config.json", {}))
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    found = read_facts(tmp_path, "target").quantisation
    assert found is not None
    assert (found.weights, found.kv_cache) == (weights, kv_cache)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model_type": "mamba2"},
            "the target is of model_type 'mamba2', which is not planned for; planned for are llama, mistral, qwen2, "
            "qwen3, gemma3_text",
        ),
        ({"hidden_size": None}, "{path}: hidden_size is None, not an integer >= 1"),
        ({"num_hidden_layers": "16"}, "{path}: num_hidden_layers is '16', not an integer >= 1"),
        (
            {"quantization_config": {"quant_method": "gptq"}},
            "the target's config.json says quant_method 'gptq', which TensorRT-LLM does not load: give a checkpoint "
            "that is not quantised (tensorrt_llm.quantise quantises it), one of ModelOpt, or one in FP8 with blocks of "
            "128 x 128",
        ),
        (
            {"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}},
            "the target's quant_algo is 'W4A8_AWQ', which is not planned for; planned for are FP8, FP8_BLOCK_SCALES, "
            "NVFP4",
        ),
    ],
)
def test_a_configuration_that_cannot_be_planned_for_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    _copy(tmp_path, LLAMA_1B, change)
    with pytest.raises(BuildError) as caught:
        read_facts(tmp_path, "target")
    assert str(caught.value) == message.replace("{path}", str(tmp_path / "config.json"))


def test_a_directory_without_a_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"the drafter has no config\.json in "):
        read_facts(tmp_path, "drafter")
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(BuildError, match=r"config\.json cannot be read"):
        read_facts(tmp_path, "drafter")


def _copy(directory: Path, model: str, change: dict[str, Any]) -> None:
    shutil.copytree(CHECKPOINTS / model, directory, dirs_exist_ok=True)
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def _same_count_as_transformers(directory: Path, model: str, change: dict[str, Any]) -> None:
    _copy(directory, model, change)
    with torch.device("meta"):
        whole = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    assert num_parameters(read_facts(directory, "target")) == sum(p.numel() for p in whole.parameters())
