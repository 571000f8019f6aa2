"""The side that faces Triton, with the names of its Python backend played by a module of this file."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.serving import metric_families, wire
from spec_cascade.serving.errors import PassedOnError, UnavailableError, as_told, told


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


@pytest.fixture
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("triton_python_backend_utils")
    vars(fake).update(
        Tensor=Tensor,
        InferenceRequest=InferenceRequest,
        InferenceResponse=InferenceResponse,
        TritonError=TritonError,
        TritonModelException=TritonModelException,
        MetricFamily=MetricFamily,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
    )
    monkeypatch.setattr(InferenceRequest, "made", [])
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", fake)


@pytest.fixture
def backend(_played: None) -> Iterator[Any]:
    yield from imported("spec_cascade.serving.backend")


@pytest.fixture
def registries(_played: None) -> Iterator[Any]:
    yield from imported("spec_cascade.serving.registry")


def imported(name: str) -> Iterator[Any]:
    """A module that imports the names of this file."""
    sys.modules.pop(name, None)
    yield importlib.import_module(name)
    sys.modules.pop(name, None)


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
    answered = backend.error_response(error).error()
    assert answered.code == code
    assert text in answered.text
    assert "\n" not in answered.text
    assert "/a/path" not in answered.text


def test_a_request_is_read_by_its_fields(backend: Any) -> None:
    tensors = [Tensor("text_input", np.array([["é".encode()]], dtype=np.object_))]
    read = backend.request_fields(Request(tensors, '{"stream": true}'), wire.PROMPT_INPUTS, wire.ENSEMBLE_INPUTS)
    assert read == {"text_input": "é"}


@dataclass
class BrokenRequest(Request):
    """Its parameters are no UTF-8, and reading them fails as it does in Triton's Python backend."""

    def parameters(self) -> str:
        return b'{"rule":"\xff"}'.decode()


def test_parameters_that_are_no_text_are_the_clients_error(backend: Any) -> None:
    with pytest.raises(ConfigError, match=r"parameters = .*\\xff.* UTF-8"):
        backend.request_fields(BrokenRequest([]), wire.PROMPT_INPUTS)
    with pytest.raises(ConfigError, match="parameters = "):
        asyncio.run(backend.ask_ensemble(BrokenRequest([PROMPT])))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('{"temperature": NaN}', "temperature = nan .*finite"),
        ('{"tempature": NaN}', "tempature = nan .*did you mean"),
        ('{"unary_token": "mine"}', "unary_token = 'mine' .*no such input"),
    ],
)
def test_parameters_that_cannot_be_passed_on_are_refused_first(backend: Any, parameters: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(backend.ask_ensemble(Request([PROMPT], parameters)))
    assert InferenceRequest.made == []


def test_the_sender_marks_the_end_once(backend: Any) -> None:
    raw = RawSender()
    sender = backend.ResponseSender(raw, wire.ENSEMBLE_OUTPUTS)
    sender.send({"text_output": "hi", "token_ids": [1, 2], "not on the wire": 3})
    sender.finish()
    (response, flags), end = raw.sent
    assert response is not None
    assert flags == 0
    assert [t.name() for t in response.output_tensors()] == ["text_output", "token_ids"]
    assert end == (None, 1)
    assert sender.is_cancelled()
    sender.fail(QueueFullError("full"))
    assert raw.sent[-1][1] == 1


PROMPT = Tensor("text_input", np.array([[b"hi"]], dtype=np.object_))
STREAM = Tensor("stream", np.array([[True]]))


@pytest.mark.parametrize(
    "request_", [Request([PROMPT, STREAM], '{"max_tokens": 3}'), Request([PROMPT], '{"stream": true, "max_tokens": 3}')]
)
def test_the_ensemble_is_asked_for_one_response_under_a_name(
    backend: Any, monkeypatch: pytest.MonkeyPatch, request_: Request
) -> None:
    answer = [Tensor("text_output", np.array([b"ho"], dtype=np.object_))]
    monkeypatch.setattr(InferenceRequest, "answers", [InferenceResponse(answer), InferenceResponse()])
    assert asyncio.run(backend.ask_ensemble(request_)).output_tensors() == answer
    (inner,) = InferenceRequest.made
    assert (inner.model_name, inner.requested_output_names, inner.inputs) == ("ensemble", ["text_output"], [PROMPT])
    token = inner.parameters.pop("unary_token")
    assert len(token) == 32
    assert inner.parameters == {"max_tokens": 3}


def test_a_parameter_that_is_no_whole_number_is_passed_on_as_a_tensor(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server passes no such parameter from model to model."""
    monkeypatch.setattr(InferenceRequest, "answers", [InferenceResponse([PROMPT])])
    asyncio.run(backend.ask_ensemble(Request([PROMPT], '{"temperature": 0.5, "top_p": 1, "seed": 3}')))
    (inner,) = InferenceRequest.made
    assert {name: value for name, value in inner.parameters.items() if name != "unary_token"} == {"top_p": 1, "seed": 3}
    prompt, temperature = inner.inputs
    assert (prompt, temperature.name()) == (PROMPT, "temperature")
    assert (temperature.array.dtype, temperature.array.tolist()) == (np.float32, [[0.5]])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ('{"max_tokens": 0.5}', "max_tokens = 0.5 .*of type INT32"),
        ('{"tempature": 0.5}', "tempature = 0.5 .*did you mean 'temperature'"),
        ('{"text_input": "ho"}', "text_input = 'ho' .*given already"),
        ('{"stream": 1}', "stream = 1 .*of type BOOL"),
        ('{"unary_token": "mine"}', "unary_token = 'mine' .*no such input"),
    ],
)
def test_what_the_ensemble_would_refuse_is_refused_before_it_is_asked(
    backend: Any, parameters: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        asyncio.run(backend.ask_ensemble(Request([PROMPT], parameters)))
    assert InferenceRequest.made == []


def test_a_cancellation_is_passed_on_until_there_is_an_answer(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "UNARY_POLL_SECONDS", 0.01)
    monkeypatch.setattr(InferenceRequest, "answers", [InferenceResponse()])
    monkeypatch.setattr(InferenceRequest, "seconds", 1)
    with pytest.raises(PassedOnError, match="cancelled") as caught:
        asyncio.run(backend.ask_ensemble(Request([PROMPT], cancelled=True)))
    assert caught.value.status == "CANCELLED"
    asked, *orders = InferenceRequest.made
    assert len(orders) > 1
    assert {order.model_name for order in orders} == {"cascade"}
    assert orders[0].inputs[0].array.tolist() == [asked.parameters["unary_token"].encode()]


@pytest.mark.parametrize(
    "error",
    [
        ConfigError("top_p", 2, "a number in (0, 1]"),
        QueueFullError("too many requests wait"),
        EngineError("the engine failed"),
        PassedOnError("the request was cancelled", "CANCELLED"),
    ],
)
def test_the_status_of_the_ensembles_error_is_found_again(
    backend: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """The server hands a model the text of another model's error, and INTERNAL for every status."""
    text, status = as_told(error)
    lost = InferenceResponse(error=TritonError(f"in ensemble 'ensemble', {text}", "INTERNAL"))
    monkeypatch.setattr(InferenceRequest, "answers", [lost])
    with pytest.raises(PassedOnError) as caught:
        asyncio.run(backend.ask_ensemble(Request([PROMPT])))
    assert as_told(caught.value) == (text, status)


def test_an_error_of_the_server_itself_is_not_the_clients_to_read(caplog: pytest.LogCaptureFixture) -> None:
    """The server puts the traceback of a model that raised into its error."""
    defect = "Failed to process the request(s) for model 'cascade_0', message: KeyError: 'x' At: /opt/1/model.py(30)"
    error = told(f"in ensemble 'ensemble', {defect}")
    assert as_told(error) == ("INTERNAL: the server failed; see its log", "INTERNAL")
    assert defect in caplog.text


ARGUMENTS = {"model_name": "cascade", "model_version": "1"}


def test_a_series_is_made_once_with_its_labels(registries: Any) -> None:
    registry = registries.open_registry(ARGUMENTS)
    requests = registry.metric(metric_families.REQUESTS, "stop", "strict")
    assert requests.labels == {"finish_reason": "stop", "rule": "strict", "model": "cascade", "version": "1"}
    assert (requests.kind, requests.description) == (MetricFamily.COUNTER, metric_families.REQUESTS.meaning)
    assert registry.metric(metric_families.REQUESTS, "stop", "strict") is requests
    assert registry.metric(metric_families.REQUESTS, "length", "strict") is not requests
    waited = registry.metric(metric_families.QUEUE_TIME)
    assert (waited.kind, waited.buckets) == (MetricFamily.HISTOGRAM, list(metric_families.QUEUE_TIME.buckets))
    with pytest.raises(ValueError, match="shorter"):
        registry.metric(metric_families.REQUESTS, "stop")


def test_metrics_go_before_their_families(registries: Any) -> None:
    registry = registries.open_registry(ARGUMENTS)
    registry.metric(metric_families.REQUESTS, "stop", "strict")
    GONE.clear()
    registry.close()
    assert sorted(GONE, reverse=True) == GONE
    assert GONE.count("family") == len(metric_families.FAMILIES)
    assert GONE.count("metric") == 1 + sum(not family.labels for family in metric_families.FAMILIES)


def test_a_server_without_metrics_is_served_without(
    registries: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(MetricFamily, "refused", True)
    assert registries.open_registry(ARGUMENTS) is None
    assert "serving without metrics: metrics not supported" in caplog.text
