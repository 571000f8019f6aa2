"""``ModelStreamInfer`` without the channel: what is sent, and how what comes back is read."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from tritonclient.grpc import InferResult, service_pb2

from spec_cascade_client.errors import (
    ClientError,
    InvalidRequestError,
    NoConnectionError,
    ServerError,
    UnavailableError,
    from_server,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade_client.address import Address, Tls
    from spec_cascade_client.request import Request
    from spec_cascade_client.wire import Outputs

CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A further attempt on a channel that is waiting to connect again fails at once: it must not wait for long.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
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
LINGER = 1.0
"""Seconds for which the end of a call is waited for that has brought all its output, before it is cancelled.

Triton (2.51) ends such a call at once, and can die of a cancellation at that very moment.
"""
UNAVAILABLE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}


def metadata(headers: Mapping[str, str]) -> list[tuple[str, str]]:
    """The metadata of every call."""
    # Not `triton_grpc_error`, which has Triton report a failed request with a status code: the server (2.51) dies of a
    # few such failures. The models' texts say which kind of failure it was.
    return [(name.lower(), value) for name, value in headers.items()]


def message(model: str, request: Request) -> Any:
    """The one message of a call; the ``stream`` tensor alone says how many responses will come."""
    made = service_pb2.ModelInferRequest(model_name=model)
    made.parameters["triton_enable_empty_final_response"].bool_param = True
    for tensor in request.tensors:
        made.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=[1, len(tensor.values)])
        made.raw_input_contents.append(tensor.raw)
    return made


def read_outputs(response: Any) -> tuple[Outputs | None, bool]:
    """Read a response: its outputs, if it has any, and whether no others come.

    The final flag may come with the reason why the output ends, or alone after it.

    Raises:
        ClientError: The response is an error, or is not what the wire promises.
    """
    if response.error_message:
        raise from_server(response.error_message)
    inner = response.infer_response
    result = InferResult(inner)
    outputs: Outputs = {}
    try:
        for output in inner.outputs:
            values = result.as_numpy(output.name).ravel().tolist()
            outputs[output.name] = [_decoded(value) for value in values] if output.datatype == "BYTES" else values
    except (ValueError, struct.error) as error:
        raise ServerError(f"the server sent a tensor that is not what it says: {error}") from error
    is_last = inner.parameters["triton_final_response"].bool_param or any(outputs.get("finish_reason", ()))
    return outputs or None, is_last


def failure(address: Address, error: Any) -> ClientError:
    """The error for a call that gRPC ended."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.CANCELLED:  # not by a stream that was closed: that asks for no error
        return UnavailableError("the request was cancelled; was the client closed?")
    if code in REFUSED:
        return from_server(text, InvalidRequestError)
    if code in UNAVAILABLE:
        if text.startswith(NO_CONNECTION):
            # Of a failed handshake gRPC says that the connecting before it went well.
            reason = text.removesuffix(": OK").rpartition(": ")[2].rstrip("]")
            return NoConnectionError(str(address), reason)
        return from_server(text, UnavailableError)
    return from_server(text or f"the server answered with gRPC status {code.name}")


def credentials(tls: Tls) -> Any:
    """The credentials of an encrypted channel.

    Raises:
        InvalidRequestError: A file cannot be read, or the server's certificate is not to be checked.
    """
    if tls.insecure:
        raise InvalidRequestError(
            "insecure = True: gRPC always checks the server's certificate; name the authority in ca_file"
        )
    files = (tls.ca_file, tls.key_file, tls.certificate_file)
    try:
        ca, key, certificate = (Path(name).read_bytes() if name else None for name in files)
    except OSError as error:
        raise InvalidRequestError(f"cannot read the TLS files: {error.strerror}") from error
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=certificate)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise ServerError("the server sent text that is not UTF-8") from error
