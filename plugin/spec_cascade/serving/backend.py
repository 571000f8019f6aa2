"""The side of the models that faces Triton's Python backend: requests and responses.

This module and `registry` are the only ones here that import it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import triton_python_backend_utils as pb_utils

from spec_cascade.errors import ConfigError, EngineError
from spec_cascade.serving import wire
from spec_cascade.serving.errors import CANCELLED, PassedOnError, as_told, told
from spec_cascade.serving.parse import read_fields
from spec_cascade.serving.repository import ENGINE_DIR_VARIABLE
from spec_cascade.serving.responses import to_arrays

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from spec_cascade.serving.parse import Fields
    from spec_cascade.serving.wire import Field

log = logging.getLogger(__name__)

UNARY_POLL_SECONDS = 0.1


def engine_dir(args: Mapping[str, str]) -> Path:
    """The engine directory that a model is to serve, from the arguments of its ``initialize``.

    Raises:
        EngineError: None is named.
    """
    parameters = json.loads(args["model_config"]).get("parameters", {})
    named = os.environ.get(ENGINE_DIR_VARIABLE) or parameters.get("engine_dir", {}).get("string_value")
    if not named:
        raise EngineError(
            f"no engine directory: set {ENGINE_DIR_VARIABLE}, or the parameter engine_dir in config.pbtxt"
        )
    return Path(named)


def request_fields(request: Any, inputs: Iterable[Field], known: Iterable[Field] = ()) -> Fields:
    """Read a request; see `read_fields`."""
    tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
    return read_fields(tensors, _parameters(request), inputs, known)


def response(values: Mapping[str, Any], outputs: Iterable[Field]) -> Any:
    """A response with these output values."""
    return pb_utils.InferenceResponse(_tensors(values, outputs))


def error_response(error: Exception) -> Any:
    """A response that says what was wrong; see `describe`."""
    text, status = as_told(error)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, getattr(pb_utils.TritonError, status)))


def cancel_request(request_token: str) -> None:
    """Have the cascade model drop a request; called by another model of the same server."""
    order = pb_utils.InferenceRequest(
        model_name="cascade",
        requested_output_names=[wire.REQUEST_TOKEN.name],
        inputs=_tensors({wire.CANCEL_TOKEN.name: request_token}, [wire.CANCEL_TOKEN]),
    )
    for answer in order.exec(decoupled=True):
        if answer.has_error():
            log.error("a request could not be cancelled: %s", answer.error().message())


async def ask_ensemble(request: Any) -> Any:
    """The one response of the ensemble to a request that was sent to `ensemble_unary`.

    When the request is cancelled, so is what the ensemble does for it.

    Raises:
        ConfigError: The ensemble would not read the request either.
        PassedOnError: The ensemble answered with an error, or, having been cancelled, not at all.
    """
    request_fields(request, wire.ENSEMBLE_INPUTS)
    token = secrets.token_hex(16)
    parameters = json.loads(_parameters(request))
    parameters.pop("stream", None)
    # The server passes no such parameter from model to model; as a tensor it does.
    fractions = {name: value for name, value in parameters.items() if isinstance(value, float)}
    inner = pb_utils.InferenceRequest(
        model_name="ensemble",
        requested_output_names=list(request.requested_output_names()),
        inputs=[
            *(tensor for tensor in request.inputs() if tensor.name() != "stream"),
            *_tensors(fractions, wire.ENSEMBLE_INPUTS),
        ],
        parameters={
            **{name: value for name, value in parameters.items() if name not in fractions},
            wire.UNARY_TOKEN.name: token,
        },
    )
    watch = asyncio.create_task(_pass_cancellation_on(request, token))
    try:
        answers = list(await inner.async_exec(decoupled=True))
    finally:
        watch.cancel()
    for answer in answers:
        if answer.has_error():
            raise told(answer.error().message())
        if answer.output_tensors():
            return pb_utils.InferenceResponse(answer.output_tensors())
    raise PassedOnError("the request was cancelled", CANCELLED)


async def _pass_cancellation_on(request: Any, token: str) -> None:
    """Cancel the named request for as long as its caller is seen to be gone: it may not have got to the engine yet."""
    while True:
        await asyncio.sleep(UNARY_POLL_SECONDS)
        if request.is_cancelled():
            cancel_request(token)


class ResponseSender:
    """Implements `live.Sender` on the response sender of a decoupled request."""

    def __init__(self, raw: Any, outputs: Iterable[Field]) -> None:
        self._raw = raw
        self._outputs = tuple(outputs)

    def send(self, values: Mapping[str, Any]) -> None:
        """Send one response."""
        self._raw.send(response(values, self._outputs))

    def fail(self, error: Exception) -> None:
        """Send an error, and that it was the last response."""
        self._raw.send(error_response(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finish(self) -> None:
        """Send that there are no more responses."""
        self._raw.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        """Whether nobody wants the responses any more."""
        return bool(self._raw.is_cancelled())


def _parameters(request: Any) -> str:
    """The request parameters as JSON."""
    try:
        return request.parameters() or "{}"
    except UnicodeDecodeError as error:
        raise ConfigError("parameters", error.object, "valid UTF-8") from error


def _tensors(values: Mapping[str, Any], fields: Iterable[Field]) -> list[Any]:
    return [pb_utils.Tensor(name, array) for name, array in to_arrays(values, fields).items()]
