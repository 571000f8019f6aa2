"""The side that faces Triton, with the names of its Python backend played by a module of this file."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.serving import metric_families, wire
from spec_cascade.serving.errors import PassedOnError, UnavailableError


class TritonError:
    """An error, with the names of the codes for codes."""

    INVALID_ARG, UNAVAILABLE, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "INTERNAL"

    def __init__(self, message: str, code: str) -> None:
        self.message, self.code = message, code


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

    output_tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None


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

    def inputs(self) -> list[Tensor]:
        return self.tensors

    def parameters(self) -> str:
        return self.parameters_json


@dataclass
class RawSender:
    """Keeps what was sent."""

    sent: list[tuple[InferenceResponse | None, int]] = field(default_factory=list)

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        self.sent.append((response, flags))

    def is_cancelled(self) -> bool:
        return True


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = ModuleType("triton_python_backend_utils")
    vars(fake).update(
        Tensor=Tensor,
        InferenceResponse=InferenceResponse,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        MetricFamily=MetricFamily,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)
    monkeypatch.delitem(sys.modules, "spec_cascade.serving.backend", raising=False)
    yield importlib.import_module("spec_cascade.serving.backend")
    sys.modules.pop("spec_cascade.serving.backend", None)


def model_config(engine_dir: str) -> dict[str, str]:
    return {"model_config": json.dumps({"parameters": {"engine_dir": {"string_value": engine_dir}}})}


def test_the_engine_directory_comes_from_the_environment_then_from_the_parameter(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEC_CASCADE_ENGINE_DIR", "/from/environment")
    assert backend.engine_dir(model_config("/from/parameter")) == Path("/from/environment")
    monkeypatch.delenv("SPEC_CASCADE_ENGINE_DIR")
    assert backend.engine_dir(model_config("/from/parameter")) == Path("/from/parameter")
    with pytest.raises(EngineError, match="no engine directory: set SPEC_CASCADE_ENGINE_DIR"):
        backend.engine_dir(model_config(""))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("top_p", 2, "a number in (0, 1]"), "INVALID_ARG", "top_p = 2 is not allowed"),
        (ConfigError("x\ny", 2, "left out"), "INVALID_ARG", "x y = 2"),
        (QueueFullError("too many requests wait"), "UNAVAILABLE", "too many requests wait"),
        (UnavailableError("the engine is shutting down"), "UNAVAILABLE", "shutting down"),
        (PassedOnError("as it was", "UNAVAILABLE"), "UNAVAILABLE", "as it was"),
        (EngineError("the engine failed"), "INTERNAL", "the engine failed"),
        (KeyError("/a/path"), "INTERNAL", "the server failed; see its log"),
    ],
)
def test_an_error_leaves_the_server_as_one_line_with_its_status(
    backend: Any, error: Exception, code: str, text: str
) -> None:
    answered = backend.error_response(error).error
    assert answered.code == code
    assert text in answered.message
    assert "\n" not in answered.message
    assert "/a/path" not in answered.message


def test_a_request_is_read_by_its_fields(backend: Any) -> None:
    tensors = [Tensor("text_input", np.array([["é".encode()]], dtype=np.object_))]
    read = backend.request_fields(Request(tensors, '{"stream": true}'), wire.PROMPT_INPUTS, wire.ENSEMBLE_INPUTS)
    assert read == {"text_input": "é"}


def test_the_sender_marks_the_end_once(backend: Any) -> None:
    raw = RawSender()
    sender = backend.ResponseSender(raw, wire.ENSEMBLE_OUTPUTS)
    sender.send({"text_output": "hi", "token_ids": [1, 2], "not on the wire": 3})
    sender.finish()
    (response, flags), end = raw.sent
    assert response is not None
    assert flags == 0
    assert [t.name() for t in response.output_tensors] == ["text_output", "token_ids"]
    assert end == (None, 1)
    assert sender.is_cancelled()
    sender.fail(QueueFullError("full"))
    assert raw.sent[-1][1] == 1


ARGUMENTS = {"model_name": "cascade", "model_version": "1"}


def test_a_series_is_made_once_with_its_labels(backend: Any) -> None:
    registry = backend.open_registry(ARGUMENTS)
    requests = registry.metric(metric_families.REQUESTS, "stop", "strict")
    assert requests.labels == {"finish_reason": "stop", "rule": "strict", "model": "cascade", "version": "1"}
    assert (requests.kind, requests.description) == (MetricFamily.COUNTER, metric_families.REQUESTS.meaning)
    assert registry.metric(metric_families.REQUESTS, "stop", "strict") is requests
    assert registry.metric(metric_families.REQUESTS, "length", "strict") is not requests
    waited = registry.metric(metric_families.QUEUE_TIME)
    assert (waited.kind, waited.buckets) == (MetricFamily.HISTOGRAM, list(metric_families.QUEUE_TIME.buckets))
    with pytest.raises(ValueError, match="shorter"):
        registry.metric(metric_families.REQUESTS, "stop")


def test_metrics_go_before_their_families(backend: Any) -> None:
    registry = backend.open_registry(ARGUMENTS)
    registry.metric(metric_families.REQUESTS, "stop", "strict")
    GONE.clear()
    registry.close()
    assert sorted(GONE, reverse=True) == GONE
    assert GONE.count("family") == len(metric_families.FAMILIES)
    assert GONE.count("metric") == 1 + sum(not family.labels for family in metric_families.FAMILIES)


def test_a_server_without_metrics_is_served_without(
    backend: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(MetricFamily, "refused", True)
    assert backend.open_registry(ARGUMENTS) is None
    assert "serving without metrics: metrics not supported" in caplog.text
