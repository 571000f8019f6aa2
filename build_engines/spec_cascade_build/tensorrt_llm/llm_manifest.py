"""The manifest of an engine directory for TensorRT-LLM's LLM API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import (
    FORMAT,
    DrafterEntry,
    EngineDefaults,
    FileEntry,
    Manifest,
    TargetEntry,
    Vocabulary,
)
from spec_cascade.engines.model_reference import ModelReference, TensorrtLlmEntry

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.tensorrt_llm.checked import CheckedPair
    from spec_cascade_build.tensorrt_llm.section import Role, TensorrtLlmSection

TOKENIZER = "tokenizer/tokenizer.json"
UNKNOWN = "(known when built)"
"""Stands in a planned manifest for what only a build finds out."""


def make_manifest(
    pair: Pair,
    checked: CheckedPair,
    *,
    key: str,
    files: dict[str, FileEntry],
    versions: dict[str, str],
    contents: Mapping[Role, str],
    autotuner_gpu: str | None,
) -> Manifest:
    """The manifest of a build.

    Args:
        pair: What was built.
        checked: What was known of it before.
        key: Hash of everything that determined it.
        files: Content of its files.
        versions: Of the libraries that made it.
        contents: Hashes of models that are directories elsewhere.
        autotuner_gpu: The GPU of the autotuner's cache; None where there is none.
    """
    section, drafter = pair.tensorrt_llm, pair.drafter
    if section is None or drafter is None:
        raise ValueError("not a pair of engine tensorrt_llm")
    return Manifest(
        format=FORMAT,
        name=pair.name,
        engine=pair.engine,
        target=TargetEntry(dtype=pair.dtype),
        drafter=DrafterEntry(kind="model"),
        compiled=None,
        defaults=engine_defaults(pair),
        vocabulary=_vocabulary(checked, files.get(TOKENIZER)),
        files=files,
        versions=versions,
        key=key,
        tensorrt_llm=TensorrtLlmEntry(
            target=_reference("target", pair.target, checked, section, contents),
            drafter=_reference("drafter", drafter, checked, section, contents),
            gpu=checked.memory.gpu.name,
            tensor_parallel_size=section.tensor_parallel_size,
            autotuner_gpu=autotuner_gpu,
        ),
    )


def planned_manifest(pair: Pair, checked: CheckedPair) -> Manifest:
    """The manifest of a build that was not done, as far as it is known."""
    return make_manifest(
        pair,
        checked,
        key=UNKNOWN,
        files={},
        versions={},
        contents={"target": UNKNOWN, "drafter": UNKNOWN},
        autotuner_gpu=UNKNOWN,
    )


def engine_defaults(pair: Pair) -> EngineDefaults:
    """The defaults of a pair as this engine keeps them: as many drafts for everybody, in every round."""
    values: dict[str, Any] = pair.defaults.model_dump()
    return EngineDefaults(**values | {"max_draft_length": pair.defaults.draft_length, "fallback": False})


def _vocabulary(checked: CheckedPair, tokenizer: FileEntry | None) -> Vocabulary:
    return Vocabulary(
        vocab_size=checked.vocabulary.size,
        target_logits=checked.target.logits,
        drafter_logits=checked.drafter.logits,
        eos_token_ids=checked.target.eos_token_ids,
        tokenizer_hash=UNKNOWN if tokenizer is None else tokenizer.sha256,
    )


def _reference(
    role: Role, source: Source, checked: CheckedPair, section: TensorrtLlmSection, contents: Mapping[Role, str]
) -> ModelReference:
    configs = checked.target_configs if role == "target" else checked.drafter_configs
    weights = checked.formats[role == "drafter"].weights
    if section.quantisation(role) != "none":
        # The build wrote it into the directory, under its role.
        return ModelReference(directory=role, weights=weights)
    if source.hub is not None:
        return ModelReference(hub=source.hub, commit=configs.commit or UNKNOWN, weights=weights)
    return ModelReference(directory=str(configs.directory), content=contents[role], weights=weights)
