"""How `ensemble_unary` asks the ensemble, and what becomes of its errors; Triton is played."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.serving import wire
from spec_cascade.serving.errors import PassedOnError, as_told, told
from tests.unit.serving.played_triton import InferenceRequest, InferenceResponse, Request, Tensor, TritonError

PROMPT = Tensor("text_input", np.array([[b"hi"]], dtype=np.object_))
STREAM = Tensor("stream", np.array([[True]]))


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
