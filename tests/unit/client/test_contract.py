"""Responses that break the wire's contract are an error of the server, never one of Python or wrong text."""

from __future__ import annotations

import pytest
from tritonclient.grpc import service_pb2

from spec_cascade_client import ServerError
from spec_cascade_client.grpc_wire import read_outputs as read_grpc
from spec_cascade_client.http_wire import read_outputs as read_http
from spec_cascade_client.output import Output
from tests.unit.client.wire_servers import Send, chunk


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b"[]",
        b"\xff",
        b'{"token_ids": Infinity}',
        b'{"token_ids": [null]}',
        b'{"token_ids": {"a": 1}}',
        b'{"text_output": null}',
        b'{"token_texts": [1]}',
        b'{"finish_reason": 5}',
        b'{"response_index": 1e400}',
        b'{"token_sources": [9]}',
        b'{"finish_reason": "stop", "cascade_stats": "null"}',
        b'{"finish_reason": "stop", "cascade_stats": "{"}',
    ],
)
def test_over_http(body):
    with pytest.raises(ServerError):
        Output().add(read_http(body))


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("BYTES", [1], []),
        ("BYTES", [1], [b"\xff\0\0\0a"]),
        ("BYTES", [1], [b"\1\0\0\0\xff"]),
        ("INT32", [2], [b"\1\0\0"]),
        ("INT32", [3], [b"\1\0\0\0"]),
    ],
)
def test_over_grpc(datatype, shape, raw):
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.outputs.add(name="text_output", datatype=datatype, shape=shape)
    response.infer_response.raw_output_contents.extend(raw)
    with pytest.raises(ServerError):
        read_grpc(response)


@pytest.mark.parametrize("protocol", ["http"])
def test_what_the_protocol_says_of_the_body_is_not_the_callers(serve, connect):
    record = serve(Send(chunk(0, "Die", [1], [0], ["Die"], finish_reason=["stop"]), final=True))
    with connect(record.url, headers={"content-type": "text/plain", "ACCEPT": "x/y", "X-A": "b"}) as client:
        client.generate("Why?")
    names = [name.lower() for name in record.headers[0]]
    assert names.count("content-type") == names.count("accept") == names.count("x-a") == 1
