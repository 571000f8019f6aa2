"""The side that faces Triton: what it reads, and what leaves it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.serving import wire
from spec_cascade.serving.errors import PassedOnError, UnavailableError
from tests.unit.serving.played_triton import RawSender, Request, Tensor


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
