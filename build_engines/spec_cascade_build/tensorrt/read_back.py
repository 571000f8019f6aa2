"""What an engine's `config.json` must say before anything relies on it.

`trtllm-build` changes what it was asked for where it sees a need, with a warning among thousands of lines: paged
context attention is switched off for some KV caches, for one. Its C++ executor then reads this file, and some values
only in one form. So the file is read back, and what does not hold is named with the option that would make it hold.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.demands import ABSENT, Demand, Expected, checkpoint_demands, demands
from spec_cascade_build.tensorrt.tools import is_supported, supported

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade_build.tensorrt.section import Role


class EngineConfigError(BuildError):
    """An engine was built, and is not what a decoder can use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What a decoder has to know of an engine, as its `config.json` has it.

    Attributes:
        version: Of the TensorRT-LLM that built it: the executor loads no other.
        architecture: The model's.
        dtype: Of what is not quantised.
        quant_algo: Of the weights; None is none.
        kv_cache_quant_algo: Of the KV cache; None is none.
        tensor_parallel_size: Its ranks.
        vocab_size: Width of the logits before padding.
        logits: Width of the rows that it returns: the next multiple of the ranks.
        logits_dtype: Their type.
        max_batch_size: Requests at a time.
        max_seq_len: Input and output of a request, in tokens; a target's is larger by its `max_draft_len`.
        max_num_tokens: Tokens in one forward.
        max_draft_len: Drafts that it scores in one; 0 for a drafter.
        tokens_per_block: Of a page of the KV cache.
    """

    version: str
    architecture: str
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    tensor_parallel_size: int
    vocab_size: int
    logits: int
    logits_dtype: str
    max_batch_size: int
    max_seq_len: int
    max_num_tokens: int
    max_draft_len: int
    tokens_per_block: int

    @property
    def needs_chunked_context(self) -> bool:
        """Whether the executor refuses the longest inputs unless it may take them in chunks."""
        return self.max_num_tokens < self.max_seq_len - 1


def read_engines(directories: dict[Role, Path], expected: dict[Role, Expected]) -> dict[Role, EngineFacts]:
    """Read the `config.json` of both engines back.

    Args:
        directories: The engines, by role.
        expected: What each must say.

    Raises:
        EngineConfigError: A value does not hold; all that do not are named.
    """
    facts = {role: read_engine(directory, expected[role]) for role, directory in directories.items()}
    versions = {role: found.version for role, found in facts.items()}
    if len(set(versions.values())) > 1:
        told = " and ".join(f"the {role} by {version}" for role, version in sorted(versions.items()))
        raise EngineConfigError(
            f"the engines were built by two versions of TensorRT-LLM, {told}: build both with one, for TensorRT "
            "loads no plan of another TensorRT"
        )
    return facts


def read_engine(directory: Path, expected: Expected) -> EngineFacts:
    """Read one engine's `config.json` back.

    Raises:
        EngineConfigError: A value does not hold; all that do not are named.
    """
    path = directory / "config.json"
    config = _read(path, EngineConfigError)
    if not (isinstance(config, dict) and {"pretrained_config", "build_config"} <= config.keys()):
        raise EngineConfigError(f"{path} is not an engine's: it has no pretrained_config and build_config")
    troubles = [*_version_troubles(config, expected), *_value_troubles(config, demands(expected))]
    troubles += _file_troubles(directory, config, expected)
    if troubles:
        told = f"the {expected.role}'s engine is not one to decode with, by {path}:"
        raise EngineConfigError(_listed(told, troubles))
    return _facts(config)


def check_checkpoint(directory: Path, expected: Expected) -> None:
    """Verify of a converted checkpoint what its engine will be asked for, before it is compiled.

    Raises:
        BuildError: A value does not hold; all that do not are named.
    """
    path = directory / "config.json"
    troubles = _value_troubles(_read(path, BuildError), checkpoint_demands(expected))
    if troubles:
        raise BuildError(_listed(f"the {expected.role}'s checkpoint is not one to compile, by {path}:", troubles))


def _read(path: Path, error_type: type[BuildError]) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise error_type(f"{path} cannot be read: {error}") from error


def _listed(told: str, troubles: list[str]) -> str:
    return told + "".join(f"\n  - {trouble}" for trouble in troubles)


def look_up(config: dict[str, Any], key: str) -> Any:
    """The value at a dotted key; ABSENT where there is none."""
    value: Any = config
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    return value


def _version_troubles(config: dict[str, Any], expected: Expected) -> list[str]:
    version = config.get("version")
    if not isinstance(version, str) or not is_supported(version):
        return [f"version is {json.dumps(version)}, must be {supported()}: build with that TensorRT-LLM"]
    if expected.version is not None and version != expected.version:
        return [
            f"version is {version}, must be {expected.version}, which is installed here: build it again with --force"
        ]
    return []


def _value_troubles(config: dict[str, Any], wanted: list[Demand]) -> list[str]:
    troubles = []
    for demand in wanted:
        value = look_up(config, demand.key)
        if not demand.holds(value):
            shown = "missing" if value is ABSENT else json.dumps(value)
            troubles.append(f"{demand.key} is {shown}, must be {demand.allowed}: {demand.advice}")
    return troubles


def _file_troubles(directory: Path, config: dict[str, Any], expected: Expected) -> list[str]:
    endings = [".engine"]
    if look_up(config, "build_config.plugin_config.manage_weights") is True:
        endings.append("_managed_weights.safetensors")
    names = [f"rank{rank}{ending}" for rank in range(expected.tensor_parallel_size) for ending in endings]
    missing = [name for name in names if not (directory / name).is_file()]
    return [f"{name} is missing: build it again with --force" for name in missing]


def _facts(config: dict[str, Any]) -> EngineFacts:
    """Of a file that holds what was demanded."""
    model, build = config["pretrained_config"], config["build_config"]
    ranks, vocab = model["mapping"]["tp_size"], model["vocab_size"]
    quantisation = model.get("quantization") or {}
    return EngineFacts(
        version=config["version"],
        architecture=str(model.get("architecture")),
        dtype=model["dtype"],
        quant_algo=quantisation.get("quant_algo"),
        kv_cache_quant_algo=quantisation.get("kv_cache_quant_algo"),
        tensor_parallel_size=ranks,
        vocab_size=vocab,
        logits=-(-vocab // ranks) * ranks,
        logits_dtype=model["logits_dtype"],
        max_batch_size=build["max_batch_size"],
        max_seq_len=build["max_seq_len"],
        max_num_tokens=build["max_num_tokens"],
        max_draft_len=build.get("max_draft_len", 0),
        tokens_per_block=build["plugin_config"]["tokens_per_block"],
    )
