"""Whatever a client sends is answered, or refused by name in one line that tells nothing of the server."""

from __future__ import annotations

import json
import re
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2, service_pb2_grpc

from spec_cascade.serving import wire
from tests.triton import corpus
from tests.triton.clients import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.serving.server import TritonServer

GENERATE = ["ensemble/generate", "ensemble/generate_stream", "ensemble_unary/generate"]
INFER = "ensemble_unary/infer"
TELLS = re.compile(r"Traceback|\.py\b|/(home|root|tmp|usr|opt|work|dev|proc|lib\w*)/|\bAt:|0x[0-9a-f]{6}|\n", re.ASCII)
NOT_FORESEEN = "the server failed"
REFUSALS = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
# The same examples in every run.
FUZZ = settings(
    max_examples=60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def _answers(server: TritonServer) -> Iterator[None]:
    """After each test the server answers."""
    yield
    status, text = ask(server, GENERATE[0], corpus.body())
    assert (status, refusal(text)) == (200, None)


@pytest.fixture(scope="module")
def stub(server: TritonServer) -> Iterator[Any]:
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(urlsplit(server.grpc_url).netloc, options=options) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def ask(server: TritonServer, path: str, body: bytes, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """Status and text of an answer over HTTP."""
    connection = HTTPConnection(urlsplit(server.http_url).netloc, timeout=TIMEOUT)
    try:
        connection.request("POST", f"/v2/models/{path}", body, headers or {})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def refusal(text: str) -> str | None:
    """The error in the text of an answer over HTTP; None for an answer."""
    last = [event for event in text.split("\n\n") if event][-1].removeprefix("data: ")
    error: str | None = json.loads(last).get("error")
    return error


def ask_grpc(stub: Any, request: Any) -> str | None:
    """The error in the answer over gRPC; None for an answer."""
    if request.model_name == "ensemble":
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        responses = list(stub.ModelStreamInfer(iter([request]), timeout=TIMEOUT))
        errors = [response.error_message for response in responses if response.error_message]
        return errors[-1] if errors else None
    call = stub.ModelInfer.future(request, timeout=TIMEOUT)
    if call.exception() is None:
        return None
    assert call.code() in REFUSALS, call.exception()
    details: str = call.details()
    return details


def assert_clean(error: str) -> None:
    assert not TELLS.search(error), error
    assert NOT_FORESEEN not in error


@pytest.mark.parametrize("path", GENERATE)
@pytest.mark.parametrize("name", corpus.OURS)
def test_a_bad_field_is_refused_by_name(server: TritonServer, path: str, name: str) -> None:
    body, message = corpus.OURS[name]
    status, text = ask(server, path, body)
    error = refusal(text)
    assert status == 400
    assert error is not None
    assert re.search(message, error), error
    assert_clean(error)


@pytest.mark.parametrize("path", [*GENERATE, INFER])
@pytest.mark.parametrize("name", corpus.TRITONS)
def test_what_is_no_request_is_refused(server: TritonServer, path: str, name: str) -> None:
    status, text = ask(server, path, corpus.TRITONS[name])
    error = refusal(text)
    assert 400 <= status <= 500
    assert error
    assert_clean(error)


@pytest.mark.parametrize("name", corpus.INFER)
def test_a_bad_tensor_is_refused_by_name(server: TritonServer, name: str) -> None:
    body, message = corpus.INFER[name]
    status, text = ask(server, INFER, body)
    error = refusal(text)
    assert 400 <= status <= 500
    assert error is not None
    assert re.search(message, error), error
    assert_clean(error)


@pytest.mark.parametrize("model", ["ensemble", "ensemble_unary"])
@pytest.mark.parametrize("name", corpus.GRPC)
def test_a_bad_message_is_refused_by_name(stub: Any, model: str, name: str) -> None:
    change, message = corpus.GRPC[name]
    request = corpus.grpc_request(model)
    assert ask_grpc(stub, request) is None
    change(request)
    error = ask_grpc(stub, request)
    assert error is not None
    assert re.search(message, error), error
    assert_clean(error)


@pytest.mark.parametrize("name", corpus.INSIDE)
def test_the_models_inside_refuse_by_name_too(server: TritonServer, name: str) -> None:
    model, fields, message = corpus.INSIDE[name]
    status, text = ask(server, f"{model}/generate", json.dumps(fields).encode())
    error = refusal(text)
    assert status == 400
    assert error is not None
    assert re.search(message, error), error
    assert_clean(error)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/xml"}, 200),  # Triton takes every body for JSON
        ({"Content-Type": "application/octet-stream"}, 200),
        ({"Content-Encoding": "gzip"}, 400),
        ({"Content-Encoding": "br"}, 400),
    ],
)
def test_a_wrong_content_type_is_harmless(server: TritonServer, headers: dict[str, str], status: int) -> None:
    assert ask(server, GENERATE[0], corpus.body(), headers)[0] == status


@pytest.mark.parametrize("length", ["99999", "-1", "x"])
def test_a_wrong_header_length_is_refused(server: TritonServer, length: str) -> None:
    status, text = ask(server, INFER, b"{}", {"Inference-Header-Content-Length": length})
    assert status == 400
    assert_clean(refusal(text) or "")


@pytest.mark.parametrize("path", ["nope/generate", "ensemble/versions/9/generate", "..%2f..%2fetc/generate"])
def test_a_model_that_there_is_not_is_not_found(server: TritonServer, path: str) -> None:
    status, text = ask(server, path, corpus.body())
    assert status == 404
    assert "is not found" in (refusal(text) or "")


def test_json_nested_far_deeper_than_a_common_stack_holds_does_not_kill_the_server(server: TritonServer) -> None:
    """With the stack of 8 MiB that threads commonly have, 50,000 levels do."""
    deep = 100_000
    nested = b"[" * deep + b'"hi"' + b"]" * deep
    assert ask(server, GENERATE[0], b"[" * deep)[0] == 500
    assert ask(server, GENERATE[0], b'{"max_tokens": 2, "text_input": ' + nested + b"}")[0] == 200
    tensor = b'{"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ' + nested + b"}"
    limit = json.dumps({"name": "max_tokens", "datatype": "INT32", "shape": [1, 1], "data": [2]}).encode()
    assert ask(server, INFER, b'{"inputs": [' + limit + b"," + tensor + b"]}")[0] == 200


# Triton's own errors quote a key as it is: one with a line break in it would break the line.
keys = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
names = st.sampled_from([field.name for field in wire.CASCADE_INPUTS]) | keys
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 5000)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def assert_answered(server: TritonServer, path: str, body: bytes) -> None:
    status, text = ask(server, path, body)
    error = refusal(text)
    if error is None:
        assert status == 200
    else:
        # With `stream` there may be two responses, of which Triton's generate complains in a body of status 200.
        assert 400 <= status <= 500 or (status == 200 and "exactly 1 response" in error), (status, error)
        assert_clean(error)


@FUZZ
@given(fields=st.dictionaries(names, values, max_size=4), path=st.sampled_from(GENERATE))
def test_any_json_is_answered_or_refused(server: TritonServer, fields: dict[str, Any], path: str) -> None:
    base = {"text_input": "hi", "max_tokens": 2, "timeout_ms": 500, "seed": 1}
    assert_answered(server, path, json.dumps({**base, **fields}).encode())


@FUZZ
@given(
    body=st.sampled_from([corpus.body(stop_words=["x"], seed=3), corpus.infer_body(corpus.text())]),
    start=st.integers(0, 99),
    length=st.integers(0, 9),
    noise=st.binary(max_size=9),
    path=st.sampled_from([*GENERATE, INFER]),
)
def test_any_bytes_are_answered_or_refused(
    server: TritonServer, body: bytes, start: int, length: int, noise: bytes, path: str
) -> None:
    assert_answered(server, path, body[:start] + noise + body[start + length :])


tensors = st.builds(
    service_pb2.ModelInferRequest.InferInputTensor,
    name=names,
    datatype=st.sampled_from(["BYTES", "INT32", "UINT64", "FP32", "BOOL", "FP16", ""]),
    shape=st.lists(st.sampled_from([-1, 0, 1, 2, 2**31, 2**62]), max_size=3),
)


@FUZZ
@given(
    model=st.sampled_from(["ensemble", "ensemble_unary"]),
    fuzzed=st.lists(st.tuples(tensors, st.binary(max_size=12)), max_size=3),
)
def test_any_tensors_are_answered_or_refused(stub: Any, model: str, fuzzed: list[tuple[Any, bytes]]) -> None:
    request = service_pb2.ModelInferRequest(model_name=model)
    known = [("text_input", "BYTES", b"\2\0\0\0hi"), ("timeout_ms", "INT32", b"\xff\0\0\0")]
    for name, datatype, content in known:
        request.inputs.add(name=name, datatype=datatype, shape=[1, 1])
        request.raw_input_contents.append(content)
    for tensor, content in fuzzed:
        request.inputs.append(tensor)
        request.raw_input_contents.append(content)
    error = ask_grpc(stub, request)
    if error is not None:
        assert_clean(error)
