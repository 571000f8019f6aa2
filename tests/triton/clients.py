"""Plain clients: what a user of curl or tritonclient does, without our client library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import tritonclient.grpc as grpcclient

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.serving.server import TritonServer

TIMEOUT = 60
NUMPY = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_, "UINT64": np.uint64}
TYPES = {
    "text_input": "BYTES",
    "messages": "BYTES",
    "deferral_rule": "BYTES",
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "draft_length": "INT32",
    "temperature": "FP32",
    "repetition_penalty": "FP32",
    "presence_penalty": "FP32",
    "priority": "FP32",
    "frequency_penalty": "FP32",
    "seed": "UINT64",
    "stream": "BOOL",
    "return_token_sources": "BOOL",
    "ignore_eos": "BOOL",
    "stop_words": "BYTES",
    "bad_words": "BYTES",
    "beam_width": "INT32",
    "pad_id": "INT32",
}


@dataclass
class Answer:
    """A response over HTTP."""

    status: int
    body: str

    @property
    def json(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(self.body)
        return values

    @property
    def events(self) -> list[dict[str, Any]]:
        """The payloads of server-sent events."""
        return [json.loads(e.removeprefix("data: ")) for e in self.body.split("\n\n") if e]


def post(
    server: TritonServer, body: dict[str, Any] | bytes, model: str = "ensemble", *, stream: bool = False
) -> Answer:
    """Ask a generate endpoint and read all of the answer."""
    connection, response = open_post(server, body, model, stream=stream)
    try:
        return Answer(response.status, response.read().decode())
    finally:
        connection.close()


def open_post(
    server: TritonServer, body: dict[str, Any] | bytes, model: str = "ensemble", *, stream: bool = True
) -> tuple[HTTPConnection, HTTPResponse]:
    """Ask a generate endpoint; the answer is read by whoever asked."""
    connection = HTTPConnection(server.http_url.removeprefix("http://"), timeout=TIMEOUT)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", f"/v2/models/{model}/generate{'_stream' if stream else ''}", content)
    return connection, connection.getresponse()


def disconnect(connection: HTTPConnection, response: HTTPResponse) -> None:
    """Close the socket, which connection and response share, whatever is left to read."""
    response.close()
    connection.close()


def tensor(name: str, value: Any) -> grpcclient.InferInput:
    """An input as TensorRT-LLM's clients send it: a batch of one."""
    elements = value if isinstance(value, list) else [value]
    array = np.array([elements], dtype=NUMPY[TYPES[name]])
    made = grpcclient.InferInput(name, list(array.shape), TYPES[name])
    made.set_data_from_numpy(array)
    return made


def grpc_stream(
    server: TritonServer, values: dict[str, Any], *, parameters: dict[str, Any] | None = None
) -> Iterator[dict[str, Any]]:
    """Ask over a gRPC stream; yields the outputs of each response; leaving early cancels."""
    queue: SimpleQueue[Any] = SimpleQueue()
    client = grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://"))
    client.start_stream(lambda result, error: queue.put((result, error)))
    finished = False
    try:
        inputs = [tensor(name, value) for name, value in values.items()]
        client.async_stream_infer("ensemble", inputs, enable_empty_final_response=True, parameters=parameters)
        while not finished:
            result, error = queue.get(timeout=TIMEOUT)
            if error is not None:
                finished = True
                raise error
            response = result.get_response()
            finished = response.parameters["triton_final_response"].bool_param
            if response.outputs:
                yield {output.name: result.as_numpy(output.name) for output in response.outputs}
    finally:
        client.stop_stream(cancel_requests=not finished)
        client.close()


def text_of(responses: list[dict[str, Any]]) -> str:
    """The text of the responses of a gRPC stream."""
    return "".join(response["text_output"][0].decode() for response in responses)
