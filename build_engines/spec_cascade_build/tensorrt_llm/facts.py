"""What a checkpoint is, read from its `config.json` alone: no weights, no model code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.families import FAMILIES, Family
from spec_cascade_build.tensorrt_llm.quantisation import Quantisation, checkpoint_quantisation

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A dense decoder.

    Attributes:
        family: What is not in its `config.json`.
        architecture: Name of its class.
        layers: Decoder layers.
        hidden: Width of the residual stream.
        heads: Attention heads of a layer.
        kv_heads: Heads of keys and values.
        head_dim: Width of a head.
        intermediate: Width of the feed-forward.
        logits: Width of its logits, padding included.
        max_positions: Longest sequence.
        tied: Whether the output head is the input embedding.
        attention_bias: Whether q, k and v have biases.
        output_bias: Whether the attention's output projection has one.
        mlp_bias: Whether the feed-forward's projections have biases.
        sliding_layers: Layers that attend to a window only.
        sliding_window: That window; None where no layer has one.
        quantisation: How it is quantised already; None where it is not.
        vision_parameters: Of its image encoder and of what projects its output, together; 0 where it has none. Text
            requests never use them, but they are loaded.
        eos_token_ids: Ids that end an answer.
    """

    family: Family
    architecture: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    logits: int
    max_positions: int
    tied: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    sliding_layers: int
    sliding_window: int | None
    quantisation: Quantisation | None
    vision_parameters: int
    eos_token_ids: tuple[int, ...]


def read_facts(directory: Path, whose: str) -> ModelFacts:
    """Read the facts of the checkpoint in a directory.

    Args:
        directory: Holds `config.json`, and `hf_quant_config.json` and `generation_config.json` where it has them.
        whose: ``target`` or ``drafter``, for messages.

    Raises:
        BuildError: The file is missing, lacks a field, or describes a model that cannot be planned for.
    """
    config = _json(directory / "config.json", whose)
    text: dict[str, Any] = config.get("text_config") or config
    family = FAMILIES.get(text.get("model_type", ""))
    if family is None:
        raise BuildError(
            f"the {whose} is of model_type {text.get('model_type')!r}, which is not planned for; "
            f"planned for are {', '.join(FAMILIES)}"
        )
    read = _Reader({**family.defaults, **text}, directory / "config.json")
    heads, hidden = read.number("num_attention_heads"), read.number("hidden_size")
    layers = read.number("num_hidden_layers")
    window, sliding = _windows(read.values, layers)
    bias = bool(read.values.get("attention_bias", False))
    return ModelFacts(
        family=family,
        architecture=str((config.get("architectures") or [family.architecture])[0]),
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=read.number("num_key_value_heads", heads),
        head_dim=read.number("head_dim", hidden // heads),
        intermediate=read.number("intermediate_size"),
        logits=read.number("vocab_size"),
        max_positions=read.number("max_position_embeddings"),
        tied=bool(read.values.get("tie_word_embeddings", config.get("tie_word_embeddings", family.tied))),
        attention_bias=bias or family.qkv_bias,
        output_bias=bias and not family.qkv_bias,
        mlp_bias=bool(read.values.get("mlp_bias", False)),
        sliding_layers=sliding,
        sliding_window=window,
        quantisation=checkpoint_quantisation(config, _optional_json(directory / "hf_quant_config.json"), whose),
        vision_parameters=_vision_parameters(config, hidden, directory / "config.json"),
        eos_token_ids=_end_ids(directory, config, text),
    )


def read_eos_token_ids(directory: Path) -> tuple[int, ...]:
    """Ids that end the answers of the checkpoint in a directory, as transformers' `generate` would have them.

    Raises:
        BuildError: It has no `config.json` that can be read.
    """
    config = _json(directory / "config.json", "target")
    return _end_ids(directory, config, config.get("text_config") or config)


class _Reader:
    """Numbers of one file, each of which has to be there."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self._path = path

    def number(self, name: str, default: int | None = None) -> int:
        value = self.values.get(name)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise BuildError(f"{self._path}: {name} is {value!r}, not an integer >= 1")
        return value


def _windows(values: dict[str, Any], layers: int) -> tuple[int | None, int]:
    """The sliding window, and how many layers have it."""
    window = values.get("sliding_window")
    if window is None or not values.get("use_sliding_window", True):
        return None, 0
    if kinds := values.get("layer_types"):
        return window, sum(kind == "sliding_attention" for kind in kinds)
    # Every n-th layer attends to everything.
    pattern = values.get("sliding_window_pattern")
    return window, layers if pattern is None else layers - layers // pattern


def _vision_parameters(config: dict[str, Any], hidden: int, path: Path) -> int:
    """SigLIP, the one encoder of the families that are planned for, and Gemma's projector behind it."""
    if not (values := config.get("vision_config")):
        return 0
    read = _Reader({"num_channels": 3, **values}, path)
    width, inner = read.number("hidden_size"), read.number("intermediate_size")
    patch = read.number("patch_size")
    positions = (read.number("image_size") // patch) ** 2
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    encoder = width * read.number("num_channels") * patch * patch + width + positions * width
    encoder += read.number("num_hidden_layers") * layer + 2 * width
    return encoder + width * hidden + width


def _end_ids(directory: Path, config: dict[str, Any], text: dict[str, Any]) -> tuple[int, ...]:
    generation = _optional_json(directory / "generation_config.json") or {}
    for values in (generation, config, text):
        if (found := values.get("eos_token_id")) is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()


def _optional_json(path: Path) -> dict[str, Any] | None:
    return _json(path, "") if path.is_file() else None


def _json(path: Path, whose: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BuildError(f"the {whose} has no config.json in {path.parent}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BuildError(f"{path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise BuildError(f"{path} is not a JSON object")
    return data
