"""The names of Triton's Python backend, played: a model that imports them runs without a server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np


class TritonError:
    """An error, with the names of the codes for codes."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        self.text, self.code = message, code

    def message(self) -> str:
        return self.text


@dataclass
class Tensor:
    """A tensor."""

    _name: str
    array: np.ndarray[Any, Any]

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray[Any, Any]:
        return self.array


@dataclass
class InferenceResponse:
    """A response."""

    tensors: list[Tensor] = field(default_factory=list)
    problem: TritonError | None = None

    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self.problem = output_tensors or [], error

    def output_tensors(self) -> list[Tensor]:
        return self.tensors

    def has_error(self) -> bool:
        return self.problem is not None

    def error(self) -> TritonError | None:
        return self.problem


class TritonModelException(Exception):  # noqa: N818 - Triton's name
    """The server refuses."""


GONE: list[str] = []


@dataclass(eq=False)
class Metric:
    """A series; it knows what its family is and, like Triton's, does not keep it."""

    kind: int
    description: str
    labels: dict[str, str]
    buckets: list[float] | None

    def __del__(self) -> None:
        GONE.append("metric")


@dataclass(eq=False)
class MetricFamily:
    """A family."""

    COUNTER, GAUGE, HISTOGRAM = range(3)
    refused: ClassVar[bool] = False

    name: str
    description: str
    kind: int

    def __post_init__(self) -> None:
        if self.refused:
            raise TritonModelException("metrics not supported")

    def __del__(self) -> None:
        GONE.append("family")

    def Metric(self, labels: dict[str, str], buckets: list[float] | None = None) -> Metric:  # noqa: N802 - Triton's name
        return Metric(self.kind, self.description, labels, buckets)


@dataclass
class Request:
    """A request."""

    tensors: list[Tensor]
    parameters_json: str = "{}"
    cancelled: bool = False

    def inputs(self) -> list[Tensor]:
        return self.tensors

    def parameters(self) -> str:
        return self.parameters_json

    def requested_output_names(self) -> list[str]:
        return ["text_output"]

    def is_cancelled(self) -> bool:
        return self.cancelled


@dataclass
class InferenceRequest:
    """A request of one model to another, answered by a class attribute."""

    model_name: str
    requested_output_names: list[str]
    inputs: list[Tensor]
    parameters: dict[str, Any] = field(default_factory=dict)

    made: ClassVar[list[InferenceRequest]] = []
    answers: ClassVar[list[InferenceResponse]] = []
    seconds: ClassVar[float] = 0

    def __post_init__(self) -> None:
        if not all(isinstance(value, (bool, int, str)) for value in self.parameters.values()):
            raise TritonModelException("Expected keys to be string and values to be bool, int or string")
        self.made.append(self)

    def exec(self, *, decoupled: bool) -> list[InferenceResponse]:
        return [InferenceResponse()]

    async def async_exec(self, *, decoupled: bool) -> list[InferenceResponse]:
        await asyncio.sleep(self.seconds)
        return self.answers


@dataclass
class RawSender:
    """Keeps what was sent."""

    sent: list[tuple[InferenceResponse | None, int]] = field(default_factory=list)

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return True


def played() -> ModuleType:
    """The module that a model imports."""
    module = ModuleType("triton_python_backend_utils")
    vars(module).update(
        Tensor=Tensor,
        InferenceRequest=InferenceRequest,
        InferenceResponse=InferenceResponse,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        MetricFamily=MetricFamily,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    return module
