"""What a build does: every command it runs and every file it writes, known before any of it."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import AUTOTUNER_CACHE, LLM_CONFIG
from spec_cascade.engines.tensorrt_llm.delivery import AUTOTUNER_VARIABLE
from spec_cascade_build.tensorrt_llm.inputs import calibration_texts
from spec_cascade_build.tensorrt_llm.llm_config import ModelPlace, llm_arguments, llm_yaml

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.tensorrt_llm.checked import CheckedPair
    from spec_cascade_build.tensorrt_llm.configs import Configs
    from spec_cascade_build.tensorrt_llm.section import Role, TensorrtLlmSection

_PACKAGE = "spec_cascade_build.tensorrt_llm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command of a build.

    Attributes:
        name: What it is called; its output goes to `logs/NAME.log`.
        title: What it does.
        arguments: The program and its arguments.
        environment: Variables beside the caller's.
    """

    name: str
    title: str
    arguments: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As a shell would take it."""
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*words, shlex.join(self.arguments)])


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """A build of an engine directory.

    Attributes:
        quantise: Commands that make quantised checkpoints, by their roles.
        llm_config: Content of `llm.yaml`.
        warm_up: The command that starts TensorRT-LLM once, which fills the autotuner's cache.
    """

    quantise: dict[Role, Command]
    llm_config: str
    warm_up: Command


def plan_build(pair: Pair, checked: CheckedPair, base: Path, directory: Path, final: Path | None = None) -> BuildPlan:
    """Plan a build.

    Args:
        pair: The pair.
        checked: What is known of it.
        base: Where the pair's relative paths start.
        directory: Where the build writes.
        final: Where the directory will stand in the end; None is the same place.
    """
    section, drafter = pair.tensorrt_llm, pair.drafter
    if section is None or drafter is None:
        raise ValueError("not a pair of engine tensorrt_llm")
    sources: dict[Role, tuple[Source, Configs]] = {
        "target": (pair.target, checked.target_configs),
        "drafter": (drafter, checked.drafter_configs),
    }
    original = {role: _place(source, configs) for role, (source, configs) in sources.items()}
    quantised = [role for role in sources if section.quantisation(role) != "none"]
    here = {role: ModelPlace(name=str(directory / role)) if role in quantised else original[role] for role in sources}
    there = {
        role: ModelPlace(name=str((final or directory) / role)) if role in quantised else original[role]
        for role in sources
    }
    arguments = llm_arguments(section, pair.defaults, checked.memory, there["target"], there["drafter"])
    work = work_directory(final or directory)
    texts = calibration_texts(section, base) or section.calibration_dataset
    return BuildPlan(
        quantise={role: _quantise(role, original[role], section, str(texts), work) for role in quantised},
        llm_config=llm_yaml(arguments),
        warm_up=_warm_up(here, directory),
    )


def work_directory(output: Path) -> Path:
    """The directory beside an engine directory where its quantised checkpoints are made.

    They and all logs stay there when a build fails.
    """
    return output.with_name(f"{output.name}.building")


def _place(source: Source, configs: Configs) -> ModelPlace:
    if source.hub is not None:
        return ModelPlace(name=source.hub, revision=configs.commit or source.revision)
    return ModelPlace(name=str(configs.directory))


def _quantise(role: Role, place: ModelPlace, section: TensorrtLlmSection, texts: str, work: Path) -> Command:
    name = f"quantise-{role}"
    arguments = [sys.executable, "-m", f"{_PACKAGE}.quantise", str(place), str(work / "partial" / name)]
    arguments += ["--format", section.quantisation(role), "--kv-cache", section.kv_cache]
    arguments += ["--dataset", texts, "--samples", str(section.calibration_size)]
    return Command(
        name=name,
        title=f"quantising the {role} to {section.quantisation(role)}",
        arguments=tuple(arguments),
    )


def _warm_up(places: dict[Role, ModelPlace], directory: Path) -> Command:
    arguments = [sys.executable, "-m", f"{_PACKAGE}.warm_up", str(directory / LLM_CONFIG)]
    arguments += ["--target", str(places["target"]), "--drafter", str(places["drafter"])]
    return Command(
        name="warm-up",
        title="starting TensorRT-LLM once, to fill the autotuner's cache",
        arguments=tuple(arguments),
        environment={AUTOTUNER_VARIABLE: str(directory / AUTOTUNER_CACHE)},
    )
