"""Families of models: which script of TensorRT-LLM converts a checkpoint, and what it calls its options."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Family:
    """Checkpoints that one `convert_checkpoint.py` reads.

    Attributes:
        name: Its directory among the examples.
        architectures: As `config.json` names them.
        source: The option for the checkpoint.
        output: The option for the result.
        parallel: The option for the number of ranks.
        workers: Whether ranks can be converted at a time.
        always: Options that every checkpoint of the family needs.
    """

    name: str
    architectures: tuple[str, ...]
    source: str = "--model_dir"
    output: str = "--output_dir"
    parallel: str = "--tp_size"
    workers: bool = True
    always: tuple[tuple[str, str], ...] = ()


FAMILIES = (
    Family("llama", ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM")),
    Family("qwen", ("Qwen2ForCausalLM", "Qwen2MoeForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM")),
    Family(
        "gemma",
        ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"),
        source="--model-dir",
        output="--output-model-dir",
        parallel="--world-size",
        workers=False,
        always=(("--ckpt-type", "hf"),),
    ),
)


@dataclass(frozen=True, slots=True)
class Architecture:
    """What `config.json` of a checkpoint says that a conversion depends on.

    Attributes:
        family: Whose script converts it.
        model_type: As transformers calls it; None where it does not say.
        vocab_size: Width of its embedding, padding included.
        num_attention_heads: Of one layer.
    """

    family: Family
    model_type: str | None
    vocab_size: int
    num_attention_heads: int


def read_architecture(directory: Path, whose: str) -> Architecture:
    """Look a checkpoint up among the families.

    Args:
        directory: A Hugging Face checkpoint; its weights are not looked at.
        whose: ``drafter`` or ``target``, for messages.

    Raises:
        BuildError: It has no readable `config.json`, no family converts it, or it is quantised already.
    """
    path = directory / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        name = config["architectures"][0]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise BuildError(f"the {whose}'s {path} names no architecture: {error!r}") from error
    family = next((f for f in FAMILIES if name in f.architectures), None)
    if family is None:
        raise BuildError(f"the {whose} is a {name}: {_what_can_be_converted(config)}")
    if config.get("quantization_config") or (directory / "hf_quant_config.json").is_file():
        raise BuildError(
            f"the {whose} in {directory} is quantised already: give the checkpoint that it was made from, and "
            "tensorrt.quantise"
        )
    try:
        vocab_size, heads = int(config["vocab_size"]), int(config["num_attention_heads"])
    except (KeyError, TypeError, ValueError) as error:
        raise BuildError(f"the {whose}'s {path} lacks vocab_size or num_attention_heads: {error!r}") from error
    return Architecture(family, config.get("model_type"), vocab_size, heads)


def _what_can_be_converted(config: dict[str, Any]) -> str:
    known = ", ".join(name for family in FAMILIES for name in family.architectures)
    if config.get("text_config"):
        # Gemma 3 beyond 1B, for one: the script looks the outer model_type up and knows only the text model's.
        return f"convert_checkpoint.py reads text models only: save its text_config's model on its own ({known})"
    return f"engine: tensorrt converts {known}"
