"""The plan of a build: four commands, what each depends on, and where everything lies.

```
ENGINE_DIR/
    .tensorrt-build            whose lock a running build holds
    drafter/  target/          the engines: config.json  rank0.engine ...  step.json
    build/
        checkpoints/           drafter/  target/: what the engines are compiled from; may go once they are
        partial/STEP/          where a step works until its output is whole
        logs/STEP.log
        timing/VERSION/GPU/    timing caches
```
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import sha256_of
from spec_cascade.errors import ConfigError
from spec_cascade_build.digest import digest
from spec_cascade_build.tensorrt.demands import Expected
from spec_cascade_build.tensorrt.families import Architecture, read_architecture
from spec_cascade_build.tensorrt.flags import (
    Flags,
    build_flags,
    convert_flags,
    is_calibrated,
    quant_algos,
    quantise_flags,
)
from spec_cascade_build.tensorrt.limits import Limits, check_pair, limits_of
from spec_cascade_build.tensorrt.tools import BUILDER, Tools

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt.section import Role, TensorrtSection

# Raised by hand when the same options give another output than before.
STEP_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A Hugging Face checkpoint on disk.

    Attributes:
        directory: Holds `config.json` and safetensors.
        fingerprint: What identifies its content: `sources.fingerprint`.
        configs: Where `config.json` is meanwhile, if the directory is yet to be fetched.
    """

    directory: Path
    fingerprint: Mapping[str, str]
    configs: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One command.

    Attributes:
        name: ``convert-drafter``, ``convert-target``, ``build-drafter`` or ``build-target``.
        role: Whose.
        needs: The step whose output it reads; None where that is a source.
        program: What the command line starts with.
        flags: Its options.
        identity: All that determines the output.
        produces: Files that are there when it went well.
        output: Where its output is when it is whole.
        partial: Where it works; ``partial/out`` becomes the output.
        log: What it printed.
        timing_cache: Where ``partial/timing.cache`` goes; None for a conversion.
    """

    name: str
    role: Role
    needs: str | None
    program: tuple[str, ...]
    flags: Flags
    identity: dict[str, Any]
    produces: tuple[str, ...]
    output: Path
    partial: Path
    log: Path
    timing_cache: Path | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """The whole command line."""
        return (*self.program, *self.flags.arguments())

    @property
    def key(self) -> str:
        """Hash of the identity."""
        return digest(self.identity)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a build does.

    Attributes:
        name: The pair's name.
        output: The engine directory.
        steps: In an order in which they could run one by one.
        expected: What is read back from each engine's `config.json`, by role.
        jobs: Steps that run at a time.
        tools: The programs.
    """

    name: str
    output: Path
    steps: tuple[Step, ...]
    expected: dict[Role, Expected]
    jobs: int
    tools: Tools

    @property
    def key(self) -> str:
        """Hash of everything that determines the engines."""
        return digest([step.key for step in self.steps])

    @property
    def versions(self) -> dict[str, str]:
        """Of what builds the engines, as far as it is here, and the GPU that they are built for."""
        names = {"TensorRT-LLM": "tensorrt_llm", "ModelOpt": "nvidia-modelopt", "GPU": "gpu"}
        found = [step.identity["versions"] for step in self.steps]
        return {names[name]: value for entry in found for name, value in entry.items() if name in names and value}

    def output_of(self, name: str) -> Path:
        """Where the output of a step is when it is whole."""
        return next(step.output for step in self.steps if step.name == name)


def make_plan(
    pair: Pair, section: TensorrtSection, sources: Mapping[Role, ModelSource], tools: Tools, output: Path, base: Path
) -> Plan:
    """Plan the build of a pair; nothing is written and no command is run.

    Args:
        pair: The pair; its defaults bound the engines.
        section: Its `tensorrt` section.
        sources: The two checkpoints.
        tools: The programs, as `find_tools` found them.
        output: The engine directory.
        base: Where relative paths start.

    Raises:
        ConfigError: The pair or a bound cannot be compiled for.
        BuildError: A checkpoint cannot be converted.
    """
    check_pair(pair)
    limits = limits_of(pair, section)
    planner = _Planner(pair, section, limits, tools, output.absolute(), base)
    models = {role: read_architecture(sources[role].configs or sources[role].directory, role) for role in _roles()}
    for role, model in models.items():
        if model.num_attention_heads % section.tensor_parallel_size:
            allowed = f"a divisor of the {role}'s {model.num_attention_heads} attention heads"
            raise ConfigError("tensorrt.tensor_parallel_size", section.tensor_parallel_size, allowed)
    conversions = {role: planner.convert(role, sources[role], models[role]) for role in _roles()}
    builds = {role: planner.build(role, conversions[role]) for role in _roles()}
    expected = {role: planner.expected(role, models[role]) for role in _roles()}
    steps = (*conversions.values(), *builds.values())
    return Plan(pair.name, planner.output, steps, expected, section.jobs, tools)


def _roles() -> tuple[Role, Role]:
    return "drafter", "target"


@dataclass(frozen=True, slots=True)
class _Planner:
    """What all steps have in common."""

    pair: Pair
    section: TensorrtSection
    limits: Limits
    tools: Tools
    output: Path
    base: Path

    def convert(self, role: Role, source: ModelSource, model: Architecture) -> Step:
        name = f"convert-{role}"
        partial = self.output / "build" / "partial" / name
        dtype, directory = self._dtype(), source.directory.absolute()
        if is_calibrated(self.section, role):
            script = self.tools.quantiser
            flags = quantise_flags(self._resolved(), role, dtype, directory, partial / "out")
            versions = {"ModelOpt": self.tools.modelopt}
        else:
            script = self.tools.converter(model.family.name)
            flags = convert_flags(self.section, role, model.family, dtype, directory, partial / "out")
            versions = {}
        versions[script.name] = sha256_of(script) if script.is_file() else None
        return Step(
            name=name,
            role=role,
            needs=None,
            program=(self.tools.python, str(script)),
            flags=flags,
            identity=self._identity(script.name, flags, self._inputs(role, source), versions),
            produces=("config.json", *self._ranks(".safetensors")),
            output=self.output / "build" / "checkpoints" / role,
            partial=partial,
            log=self._log(name),
        )

    def build(self, role: Role, conversion: Step) -> Step:
        name = f"build-{role}"
        partial = self.output / "build" / "partial" / name
        cache = self._timing_caches() / f"{self.pair.name}-{role}.cache"
        caches = (cache, partial / "timing.cache")
        flags = build_flags(self.section, role, self.limits, conversion.output, partial / "out", caches)
        return Step(
            name=name,
            role=role,
            needs=conversion.name,
            program=(self.tools.builder,),
            flags=flags,
            identity=self._identity(BUILDER, flags, {"checkpoint": conversion.key}, {"GPU": self.tools.gpu}),
            produces=("config.json", *self._ranks(".engine")),
            output=self.output / role,
            partial=partial,
            log=self._log(name),
            timing_cache=cache,
        )

    def expected(self, role: Role, model: Architecture) -> Expected:
        algos = quant_algos(self.section, role)
        return Expected(
            role=role,
            version=self.tools.version,
            dtype=self._dtype(),
            quant_algo=algos.weights,
            kv_cache_quant_algo=algos.kv_cache,
            tensor_parallel_size=self.section.tensor_parallel_size,
            vocab_size=model.vocab_size,
            logits_dtype=self.section.logits_dtype,
            tokens_per_block=self.section.tokens_per_block,
            limits=self.limits,
        )

    def _inputs(self, role: Role, source: ModelSource) -> dict[str, str]:
        """What a conversion reads; the tokenizer's files only where texts are calibrated with."""
        if is_calibrated(self.section, role):
            return dict(source.fingerprint)
        read = ("config.json", "hub", "commit")
        return {name: value for name, value in source.fingerprint.items() if name in read or ".safetensors" in name}

    def _identity(
        self, program: str, flags: Flags, inputs: dict[str, str], versions: dict[str, str | None]
    ) -> dict[str, Any]:
        return {
            "format": STEP_FORMAT,
            "program": program,
            "flags": flags.deciding,
            "inputs": inputs,
            "versions": {"TensorRT-LLM": self.tools.version, **versions},
        }

    def _dtype(self) -> str:
        dtype = self.section.dtype or self.pair.dtype
        if dtype == "float32":
            raise ConfigError("dtype", dtype, "bfloat16, or tensorrt.dtype given: paged attention has 16 bits at most")
        return dtype

    def _resolved(self) -> TensorrtSection:
        """The section with a data set that is a directory beside the pair file in full: commands run elsewhere."""
        name = self.section.calibration_dataset
        if name is None or not (self.base / name).is_dir():
            return self.section
        return self.section.model_copy(update={"calibration_dataset": str((self.base / name).absolute())})

    def _ranks(self, ending: str) -> tuple[str, ...]:
        return tuple(f"rank{rank}{ending}" for rank in range(self.section.tensor_parallel_size))

    def _log(self, name: str) -> Path:
        return self.output / "build" / "logs" / f"{name}.log"

    def _timing_caches(self) -> Path:
        """Timings hold for one version and one model of GPU: of another they would choose its kernels."""
        place = self.output / "build" / "timing"
        if self.section.timing_cache is not None:
            place = (self.base / Path(self.section.timing_cache).expanduser()).absolute()
        gpu = re.sub(r"[^A-Za-z0-9.]+", "-", self.tools.gpu or "unknown")
        return place / (self.tools.version or "unknown") / gpu
