"""Two small real servers, HTTP and gRPC, that speak the wire and follow a script."""

from __future__ import annotations

import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

DATATYPES = {
    "text_output": "BYTES",
    "token_texts": "BYTES",
    "finish_reason": "BYTES",
    "cascade_stats": "BYTES",
    "token_ids": "INT32",
    "token_sources": "INT32",
    "response_index": "INT32",
    "output_log_probs": "FP32",
}
NUMPY = {"INT32": np.int32, "UINT64": np.uint64, "FP32": np.float32, "BOOL": np.bool_}
# What Triton 2.51 makes of any error of a model over HTTP; on a gRPC stream an error is text.
HTTP_REFUSED = 400


@dataclass
class Send:
    """One response with these outputs; over gRPC with the final flag or without."""

    outputs: dict[str, list[Any]]
    final: bool = False


@dataclass
class Fail:
    """A failure after the first response: an error inside an otherwise successful reply."""

    message: str


@dataclass
class Refuse:
    """A failure before the first response."""

    message: str


@dataclass
class Abort:
    """The end of a gRPC call by whoever stands in front of Triton."""

    code: grpc.StatusCode
    message: str


@dataclass
class Pause:
    """Silence until the client goes away, or for this long."""

    seconds: float


@dataclass
class Drop:
    """The connection breaks."""


@dataclass
class Early:
    """A step that only the first requests meet, or those after so many others."""

    requests: int
    step: Send | Fail | Refuse | Abort | Pause | Drop
    after: int = 0


Step = Send | Fail | Refuse | Abort | Pause | Drop | Early


def steps(script: list[Step], request: int) -> list[Any]:
    """What the script has for the request of this number, from 1."""
    timely = [step for step in script if not isinstance(step, Early) or 0 < request - step.after <= step.requests]
    return [step.step if isinstance(step, Early) else step for step in timely]


@dataclass
class Record:
    """What the server saw."""

    url: str = ""
    requests: list[dict[str, list[Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    client_gone: threading.Event = field(default_factory=threading.Event)
    over: threading.Event = field(default_factory=threading.Event)
    """Set when a gRPC call has ended."""


def chunk(index: int, text: str, ids: list[int], sources: list[int], texts: list[str], **more: Any) -> dict[str, Any]:
    return {
        "response_index": [index],
        "text_output": [text],
        "token_ids": ids,
        "token_sources": sources,
        "token_texts": texts,
        "finish_reason": [""],
        **more,
    }


class HttpServer(ThreadingHTTPServer):
    """Plays its script for each POST."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: list[Step], port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.script = script
        self.record = Record(f"http://127.0.0.1:{self.server_port}")
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        record = self.server.record
        record.requests.append({k: v if isinstance(v, list) else [v] for k, v in body.items()})
        record.headers.append(dict(self.headers))
        record.paths.append(self.path)
        self._streaming = self.path.endswith("generate_stream")
        self._started = False
        for step in steps(self.server.script, len(record.requests)):
            match step:
                case Send(outputs):
                    # As Triton does: tensors of one element become scalars.
                    self._body({k: v[0] if len(v) == 1 else v for k, v in outputs.items()})
                case Fail(message):
                    self._body({"error": message})
                case Refuse(message):
                    error = json.dumps({"error": message}).encode()
                    self._reply(HTTP_REFUSED, b"data: %s\n\n" % error if self._streaming else error)
                    return
                case Pause(seconds):
                    self.connection.settimeout(seconds)
                    try:
                        if self.connection.recv(1) == b"":
                            record.client_gone.set()
                    except TimeoutError:
                        continue
                    except OSError:
                        record.client_gone.set()
                    return
                case Drop():
                    self.close_connection = True
                    return
        if self._streaming and self._started:
            self.wfile.write(b"0\r\n\r\n")

    def _body(self, fields: dict[str, Any]) -> None:
        data = json.dumps(fields).encode()
        if not self._streaming:
            self._reply(200, data)
            return
        if not self._started:
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream; charset=utf-8")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self._started = True
        event = b"data: " + data + b"\n\n"
        # In two pieces: an event need not arrive whole.
        for part in (event[:7], event[7:]):
            self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.flush()

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class GrpcServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Plays its script for each ModelStreamInfer."""

    def __init__(self, script: list[Step], credentials: grpc.ServerCredentials | None = None, port: int = 0) -> None:
        self.script = script
        self._server = grpc.server(ThreadPoolExecutor(16))
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        if credentials is None:
            port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.record = Record(f"grpc://127.0.0.1:{port}")
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def ModelStreamInfer(self, requests: Any, context: Any) -> Any:  # noqa: N802 - the name of the service
        request = next(requests)
        self.record.requests.append(_read_inputs(request))
        number = len(self.record.requests)
        self.record.headers.append(dict(context.invocation_metadata()))
        self.record.paths.append(request.model_name)
        gone, finished = threading.Event(), threading.Event()

        def ended() -> None:
            gone.set()
            if not finished.is_set():
                self.record.client_gone.set()
            self.record.over.set()

        context.add_callback(ended)
        for step in steps(self.script, number):
            match step:
                case Send(outputs, final):
                    yield _response(outputs, final=final)
                case Fail(message) | Refuse(message):
                    yield service_pb2.ModelStreamInferResponse(error_message=message)
                case Abort(code, message):
                    context.abort(code, message)
                case Pause(seconds):
                    if gone.wait(seconds):
                        return
                case Drop():
                    context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        finished.set()


def _read_inputs(request: Any) -> dict[str, list[Any]]:
    values: dict[str, list[Any]] = {}
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        if tensor.datatype == "BYTES":
            array = deserialize_bytes_tensor(raw)
            values[tensor.name] = [text.decode() for text in array]
        else:
            values[tensor.name] = np.frombuffer(raw, NUMPY[tensor.datatype]).tolist()
        assert list(tensor.shape) == [1, len(values[tensor.name])]
    return values


def _response(outputs: dict[str, list[Any]], *, final: bool) -> Any:
    response = service_pb2.ModelStreamInferResponse()
    inner = response.infer_response
    inner.parameters["triton_final_response"].bool_param = final
    for name, values in outputs.items():
        datatype = DATATYPES[name]
        inner.outputs.add(name=name, datatype=datatype, shape=[len(values)])
        if datatype == "BYTES":
            raw = serialize_byte_tensor(np.array([v.encode() for v in values], dtype=np.object_))
            inner.raw_output_contents.append(raw.item() if raw.size else b"")
        else:
            inner.raw_output_contents.append(np.array(values, NUMPY[datatype]).tobytes())
    return response
