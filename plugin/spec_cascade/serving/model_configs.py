"""The `config.pbtxt` of every model, rendered from the wire.

`python -m spec_cascade.serving.model_configs triton_model_repo` writes them; a test holds the files to this rendering
and to the real protobuf schema.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.serving import wire

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_cascade.serving.wire import Field

_ENGINE_DIR = (
    "parameters {",
    '  key: "engine_dir"',
    "  # The engine directory; the environment variable SPEC_CASCADE_ENGINE_DIR comes before it.",
    '  value { string_value: "" }',
    "}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonModel:
    """A Python model.

    Attributes:
        about: What it does, for the reader of its configuration.
        decoupled: Whether a request may have any number of responses.
        kind: Kind of its instances.
        count: Number of its instances, a process each.
        reads_engine: Whether it reads the engine directory.
    """

    name: str
    about: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    decoupled: bool
    kind: str = "KIND_CPU"
    count: int = 1
    reads_engine: bool = True

    def render(self) -> str:
        """The `config.pbtxt`."""
        return "\n".join(
            [
                *_comment(self.about),
                f'name: "{self.name}"',
                'backend: "python"',
                "max_batch_size: 0",
                *_transaction_policy(self.decoupled),
                "instance_group [",
                f"  {{ count: {self.count}, kind: {self.kind} }}",
                "]",
                *(_ENGINE_DIR if self.reads_engine else ()),
                *_tensors(self),
                "",
            ]
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ensemble:
    """Models in a row, joined by the names of their tensors.

    A tensor that the ensemble's user does not see is written with an underscore in front.
    """

    name: str
    about: str
    inputs: tuple[Field, ...]
    outputs: tuple[Field, ...]
    steps: tuple[PythonModel, ...] = field(default=())

    def render(self) -> str:
        """The `config.pbtxt`."""
        lines = [
            *_comment(self.about),
            f'name: "{self.name}"',
            'platform: "ensemble"',
            "max_batch_size: 0",
            *_transaction_policy(True),
            *_tensors(self),
            "ensemble_scheduling {",
            "  step [",
        ]
        for i, step in enumerate(self.steps):
            lines += ["    {", f'      model_name: "{step.name}"', "      model_version: -1"]
            sources = {tensor.name: self._source(i, tensor) for tensor in step.inputs}
            targets = {tensor.name: self._target(i, tensor) for tensor in step.outputs}
            lines += [_mapping("input_map", name, source) for name, source in sources.items() if source]
            lines += [_mapping("output_map", name, target) for name, target in targets.items()]
            lines.append("    }" if i + 1 == len(self.steps) else "    },")
        return "\n".join([*lines, "  ]", "}", ""])

    def _source(self, index: int, tensor: Field) -> str:
        """Where a step's input comes from: the step before, else the ensemble's inputs; empty for nowhere."""
        if index and tensor in self.steps[index - 1].outputs:
            return self._target(index - 1, tensor)
        return tensor.name if tensor in self.inputs else ""

    def _target(self, index: int, tensor: Field) -> str:
        """Where a step's output goes: out of the ensemble from the last step, else on to the next."""
        return tensor.name if index + 1 == len(self.steps) else f"_{self.steps[index].name}_{tensor.name}"


PREPROCESSING = PythonModel(
    name="preprocessing",
    about="Text or a conversation to token ids. Stateless: raise its count where long prompts queue up.",
    inputs=wire.PROMPT_INPUTS,
    outputs=wire.PREPROCESSING_OUTPUTS,
    decoupled=False,
)
CASCADE = PythonModel(
    name="cascade",
    about="Token ids to token ids: drafter, target and deferral rule. It batches inside; one instance for each engine.",
    inputs=wire.CASCADE_INPUTS,
    outputs=wire.CASCADE_OUTPUTS,
    decoupled=True,
    kind="KIND_MODEL",
)
POSTPROCESSING = PythonModel(
    name="postprocessing",
    about="Token ids to text in pieces. Stateless, but more than one instance would let responses overtake each other.",
    inputs=wire.CASCADE_OUTPUTS,
    outputs=wire.ENSEMBLE_OUTPUTS,
    decoupled=True,
)
ENSEMBLE = Ensemble(
    name="ensemble",
    about="Text to text: what clients talk to.",
    inputs=wire.ENSEMBLE_INPUTS,
    outputs=wire.ENSEMBLE_OUTPUTS,
    steps=(PREPROCESSING, CASCADE, POSTPROCESSING),
)
ENSEMBLE_UNARY = PythonModel(
    name="ensemble_unary",
    about="The ensemble for clients that want exactly one response: plain /infer and unary gRPC.\n"
    "An instance serves one request at a time: count is the number of requests served at once; more wait. Each is a\n"
    "small process without models; raise it up to the engine's max_batch_size where most clients are of this kind.",
    inputs=wire.ENSEMBLE_INPUTS,
    outputs=wire.ENSEMBLE_OUTPUTS,
    decoupled=False,
    count=4,
    reads_engine=False,
)
MODELS: tuple[PythonModel | Ensemble, ...] = (PREPROCESSING, CASCADE, POSTPROCESSING, ENSEMBLE, ENSEMBLE_UNARY)


def write(repository: Path) -> None:
    """Write every configuration into a model repository."""
    for model in MODELS:
        (repository / model.name).mkdir(parents=True, exist_ok=True)
        (repository / model.name / "config.pbtxt").write_text(model.render(), encoding="utf-8")


def _comment(text: str) -> list[str]:
    return [
        *(f"# {line}" for line in text.splitlines()),
        "# Rendered from the wire: python -m spec_cascade.serving.model_configs triton_model_repo",
        "",
    ]


def _transaction_policy(decoupled: bool) -> list[str]:
    return [f"model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}"]


def _tensors(model: PythonModel | Ensemble) -> list[str]:
    return [*_tensor_list("input", model.inputs), *_tensor_list("output", model.outputs)]


def _tensor_list(kind: str, tensors: Iterable[Field]) -> list[str]:
    end = ", optional: true" if kind == "input" else ""
    return [f"{kind} [", *_joined(_tensor(tensor, end) for tensor in tensors), "]"]


def _tensor(tensor: Field, end: str) -> str:
    dims = ", ".join(map(str, tensor.dims))
    return f'  {{ name: "{tensor.name}", data_type: {tensor.datatype}, dims: [ {dims} ]{end} }}'


def _mapping(kind: str, key: str, value: str) -> str:
    return f'      {kind} {{ key: "{key}", value: "{value}" }}'


def _joined(lines: Iterable[str]) -> list[str]:
    joined = list(lines)
    return [f"{line}," for line in joined[:-1]] + joined[-1:]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
