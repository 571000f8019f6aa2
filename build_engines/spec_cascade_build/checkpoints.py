"""Checkpoints to safetensors in the engine directory: dequantise, cast, prune."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partialmethod
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import SHARED_TENSORS, WEIGHTS
from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

    from transformers import PretrainedConfig, PreTrainedTokenizerFast

    from spec_cascade_build.sources import Checkpoint

_LAYER = re.compile(r"^(?P<stem>.+\.(?:layers|h|blocks))\.(?P<index>\d+)\.(?P<rest>.+)$")
# Attributes of a configuration that have one item per layer.
_PER_LAYER = ("layer_types", "no_rope_layers")


@dataclass(frozen=True, slots=True)
class WrittenModel:
    """A model as it stands in the engine directory.

    Attributes:
        config: Its configuration.
        logits: Width of its logits.
        eos_token_ids: Ids that end its answers, as transformers' `generate` would have them.
        tensors: Names of its tensors on disk.
    """

    config: PretrainedConfig
    logits: int
    eos_token_ids: tuple[int, ...]
    tensors: tuple[str, ...]


def write_model(checkpoint: Checkpoint, dtype: str, directory: Path) -> WrittenModel:
    """Write `config.json`, `generation_config.json` and one `model.safetensors` in ``dtype``; tied weights once.

    Raises:
        BuildError: transformers cannot read the checkpoint as a causal language model.
    """
    import torch
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    try:
        with _quiet():
            model, report = AutoModelForCausalLM.from_pretrained(
                checkpoint.directory,
                gguf_file=checkpoint.gguf,
                dtype=getattr(torch, dtype),
                trust_remote_code=False,
                use_safetensors=True if checkpoint.gguf is None else None,
                local_files_only=True,
                output_loading_info=True,
            )
            if report["missing_keys"]:
                raise BuildError(f"{checkpoint.title} has no tensor {min(report['missing_keys'])}")
            # A GGUF file leaves a note of its quantisation, which is no longer true.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.save_pretrained(directory, safe_serialization=True, max_shard_size="1000GB")
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, NotImplementedError) as error:
        raise BuildError(f"{checkpoint.title} cannot be read as a language model: {first_line(error)}") from error
    # Others may serve what this user built: the usual permissions, not safetensors' private ones.
    (directory / WEIGHTS).chmod((directory / "config.json").stat().st_mode)
    with safe_open(directory / WEIGHTS, framework="pt") as file:
        tensors = tuple(sorted(file.keys()))
    return WrittenModel(
        config=model.config,
        logits=model.get_output_embeddings().weight.shape[0],
        eos_token_ids=_eos_token_ids(model),
        tensors=tensors,
    )


def read_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint.

    Raises:
        BuildError: There is none, or none that the `tokenizers` library runs.
    """
    from transformers import AutoTokenizer

    from spec_cascade_build import gguf_tokenizer

    if checkpoint.gguf is not None:
        return gguf_tokenizer.read_tokenizer(checkpoint.directory / checkpoint.gguf)
    if not (checkpoint.directory / "tokenizer.json").is_file():
        raise BuildError(f"{checkpoint.title} has no tokenizer.json: save its tokenizer as a fast one")
    try:
        return AutoTokenizer.from_pretrained(checkpoint.directory, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise BuildError(f"{checkpoint.title} has no tokenizer that can be read: {first_line(error)}") from error


def write_pruned(target: WrittenModel, layers: Sequence[int], directory: Path) -> None:
    """Write a drafter that is some of the target's layers: a configuration and the names of the tensors it shares.

    Raises:
        ConfigError: The target has no such layer.
        BuildError: The target's layers cannot be told from its tensor names.
    """
    count: int = target.config.num_hidden_layers
    if layers[-1] >= count:
        raise ConfigError("drafter.prune.layers", list(layers), f"layers that the target has: 0 to {count - 1}")
    shared = shared_tensors(target.tensors, layers, count)
    config = pruned_config(target.config, layers)
    check_covered(config, shared, "the target cannot be pruned")
    config.save_pretrained(directory)
    text = json.dumps(shared, indent=2, sort_keys=True) + "\n"
    (directory / SHARED_TENSORS).write_text(text, encoding="utf-8")


def shared_tensors(tensors: Sequence[str], layers: Sequence[int], count: int) -> dict[str, str]:
    """Drafter tensor name -> target tensor name, for a drafter that keeps ``layers`` of the target's ``count``."""
    place = {layer: position for position, layer in enumerate(layers)}
    found: set[int] = set()
    shared: dict[str, str] = {}
    for name in tensors:
        match = _LAYER.match(name)
        if match is None:
            shared[name] = name
            continue
        layer = int(match["index"])
        found.add(layer)
        if layer in place:
            shared[f"{match['stem']}.{place[layer]}.{match['rest']}"] = name
    if found != set(range(count)):
        raise BuildError("the target cannot be pruned: its tensor names do not tell its layers apart")
    return shared


def first_line(error: Exception) -> str:
    """An error of a library in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def pruned_config(config: PretrainedConfig, layers: Sequence[int]) -> PretrainedConfig:
    """The configuration of a model that has only some of the layers."""
    values: dict[str, Any] = config.to_dict()
    values["num_hidden_layers"] = len(layers)
    for name in _PER_LAYER:
        if isinstance(values.get(name), list):
            values[name] = [values[name][layer] for layer in layers]
    return type(config).from_dict(values)


def check_covered(config: PretrainedConfig, names: Collection[str], trouble: str) -> None:
    """Verify that tensors with these names are all that a model needs, apart from tied ones, and no more.

    Raises:
        BuildError: They are not; it begins with ``trouble``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    tied = set(model._tied_weights_keys or ()) if config.tie_word_embeddings else set()
    missing = set(model.state_dict()) - set(names) - tied
    surplus = set(names) - set(model.state_dict())
    if missing or surplus:
        name = min(missing | surplus)
        raise BuildError(f"{trouble}: tensor {name} has no counterpart")


def _eos_token_ids(model: Any) -> tuple[int, ...]:
    for config in (model.generation_config, model.config):
        found = getattr(config, "eos_token_id", None)
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    return ()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of transformers, which would draw over ours; its GGUF reader uses tqdm directly."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    original = tqdm.__init__
    tqdm.__init__ = partialmethod(original, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = original
