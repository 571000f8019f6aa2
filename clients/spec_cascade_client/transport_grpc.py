"""gRPC: one ``ModelStreamInfer`` stream for each request.

The calls go through the generated stub of tritonclient. `tritonclient.grpc.InferenceServerClient` allows one
stream at a time for each client, and leaves a thread behind for each stream that is cancelled; the stub has
neither fault, so that one channel carries any number of requests.
"""

from __future__ import annotations

import threading
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from spec_cascade_client.errors import (
    ClientError,
    IdleTimeoutError,
    InvalidRequestError,
    NoConnectionError,
    ServerError,
    UnavailableError,
    from_server,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.wire import Outputs, Tensor

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
]
REFUSED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
}
# gRPC has no status of its own for it.
NO_CONNECTION = ("failed to connect to all addresses", "DNS resolution failed", "errors resolving")
UNAVAILABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


class GrpcTransport:
    """Sends every request on one channel."""

    def __init__(self, address: Address, model: str, headers: Mapping[str, str], tls: Tls) -> None:
        self._address = address
        self._model = model
        # Not the header `triton_grpc_error`, which has Triton report a failed request with a status code: the server
        # (2.51) dies of a few such failures. The models' texts say which kind of failure it was.
        self._metadata = [(name.lower(), value) for name, value in headers.items()]
        self._channel = (
            grpc.secure_channel(address.target, _credentials(tls), options=CHANNEL_OPTIONS)
            if address.encrypted
            else grpc.insecure_channel(address.target, options=CHANNEL_OPTIONS)
        )
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def send(self, inputs: Sequence[Tensor], *, stream: bool, idle_timeout: float) -> GrpcResponses:  # noqa: ARG002
        """See `Transport.send`; over gRPC the ``stream`` tensor alone says how many responses will come."""
        request = service_pb2.ModelInferRequest(model_name=self._model)
        request.parameters["triton_enable_empty_final_response"].bool_param = True
        for tensor in inputs:
            request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, len(tensor.values)])
            request.raw_input_contents.append(tensor.raw)
        try:
            call = self._stub.ModelStreamInfer(iter([request]), metadata=self._metadata)
        except ValueError as error:  # what grpc raises on a closed channel
            raise UnavailableError("the client is closed") from error
        return GrpcResponses(self._address, call, idle_timeout)

    def close(self) -> None:
        """Cancel what still runs and close the channel."""
        self._channel.close()


class GrpcResponses:
    """The responses on one stream.

    gRPC's own iterator waits without a limit; a thread drains it into a queue, and the queue is waited on.
    """

    def __init__(self, address: Address, call: Any, idle_timeout: float) -> None:
        self._address = address
        self._call = call
        self._idle_timeout = idle_timeout
        self._closed = False
        self._finished = False
        self._queue: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._drain, name="spec-cascade-client", daemon=True).start()

    def __iter__(self) -> Iterator[Outputs]:
        """See `Responses`."""
        try:
            while (response := self._next()) is not None:
                result = response.infer_response
                if response.error_message:
                    raise from_server(response.error_message)
                # The final flag may come with content or alone: the tensors are read first.
                if result.outputs:
                    yield _outputs(result)
                if result.parameters["triton_final_response"].bool_param:
                    self._finished = True
                    return
        except ClientError:
            # Whoever closes from another thread wants the iteration to end, not to hear of the cancelling.
            if not self._closed:
                raise
        finally:
            self._free()

    def close(self) -> None:
        """See `Responses`."""
        self._closed = True
        self._free()

    def _free(self) -> None:
        if not self._finished:
            self._call.cancel()

    def _drain(self) -> None:
        try:
            for response in self._call:
                self._queue.put(response)
            self._queue.put(None)
        except grpc.RpcError as error:
            self._queue.put(error)

    def _next(self) -> Any:
        try:
            item = self._queue.get(timeout=self._idle_timeout)
        except Empty:
            raise IdleTimeoutError(str(self._address), self._idle_timeout) from None
        if isinstance(item, grpc.RpcError):
            raise self._failure(item) from item
        return item

    def _failure(self, error: Any) -> ClientError:
        code, text = error.code(), error.details() or ""
        if code in REFUSED:
            return from_server(text, InvalidRequestError)
        if code in UNAVAILABLE:
            if text.startswith(NO_CONNECTION):
                return NoConnectionError(str(self._address), text.rpartition(": ")[2].rstrip("]"))
            return from_server(text, UnavailableError)
        return from_server(text or f"the server answered with gRPC status {code.name}")


def _outputs(response: Any) -> Outputs:
    result = InferResult(response)
    outputs: Outputs = {}
    for output in response.outputs:
        values = result.as_numpy(output.name).ravel().tolist()
        outputs[output.name] = [_decoded(value) for value in values] if output.datatype == "BYTES" else values
    return outputs


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ServerError("the server sent text that is not UTF-8") from error


def _credentials(tls: Tls) -> Any:
    files = (tls.ca_file, tls.key_file, tls.certificate_file)
    try:
        ca, key, certificate = (Path(name).read_bytes() if name else None for name in files)
    except OSError as error:
        raise InvalidRequestError(f"cannot read the TLS files: {error.strerror}") from error
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)
