"""The wire's contract as the client sees it: input tensors out, output tensors in; over HTTP or gRPC."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, Protocol

from spec_cascade_client.errors import InvalidRequestError, ServerError
from spec_cascade_client.results import Chunk, Statistics, TokenSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from spec_cascade_client.options import Message, Options
    from spec_cascade_client.request import Request

Value = bool | int | float | str
Outputs = dict[str, list[Any]]
"""One response: the elements of each output tensor by name; strings are decoded."""

# Tensor -> its datatype in KServe's words, and the options field that fills it.
OPTION_TENSORS = {
    "deferral_rule": ("BYTES", "rule"),
    "draft_length": ("INT32", "draft_length"),
    "max_tokens": ("INT32", "max_tokens"),
    "min_tokens": ("INT32", "min_tokens"),
    "temperature": ("FP32", "temperature"),
    "top_k": ("INT32", "top_k"),
    "top_p": ("FP32", "top_p"),
    "min_p": ("FP32", "min_p"),
    "repetition_penalty": ("FP32", "repetition_penalty"),
    "presence_penalty": ("FP32", "presence_penalty"),
    "frequency_penalty": ("FP32", "frequency_penalty"),
    "seed": ("UINT64", "seed"),
    "timeout_ms": ("INT32", "timeout_ms"),
    "priority": ("FP32", "priority"),
}
_PACKING = {"BOOL": "<?", "INT32": "<i", "UINT64": "<Q", "FP32": "<f"}
_ALLOWED = {
    "BYTES": "text without lone surrogates",
    "BOOL": "true or false",
    "INT32": "an integer of 32 bits",
    "UINT64": "an integer in [0, 2**64)",
    "FP32": "a finite number",
}


class Responses(Protocol):
    """The responses to one request, in order."""

    def receive(self) -> Outputs | None:
        """Block until the next response; None after the last.

        Raises:
            ClientError: The server refused, failed, went away, or was silent for too long.
        """

    def close(self) -> None:
        """Cancel what is left on the server and free the connection. Idempotent; any thread may call it."""


class Transport(Protocol):
    """One way to reach the server."""

    def send(self, request: Request) -> Responses:
        """Send a request; its clock bounds every wait, this one's and those for its responses.

        Raises:
            ClientError: It could not be sent.
        """

    def close(self) -> None:
        """Free the connections. Idempotent."""


class AsyncResponses(Protocol):
    """The responses to one request, in order."""

    async def receive(self) -> Outputs | None:
        """Wait for the next response; see `Responses.receive`."""

    def close(self) -> None:
        """Cancel what is left on the server, end a wait, and free the connection. Idempotent."""


class AsyncTransport(Protocol):
    """One way to reach the server from an event loop."""

    def send(self, request: Request) -> AsyncResponses:
        """Make a call within the event loop; a failure to send it is one to receive.

        Raises:
            ClientError: The client is closed.
        """

    async def close(self) -> None:
        """Free the connections. Idempotent."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input tensor of shape ``[1, len(values)]``; refuses values that its datatype cannot hold."""

    name: str
    datatype: str
    values: tuple[Value, ...]
    raw: bytes = b""
    is_list: bool = False

    def __post_init__(self) -> None:
        try:
            values = tuple(_plain(self.datatype, value) for value in self.values)
            raw = b"".join(_packed(self.datatype, value) for value in values)
        except (struct.error, OverflowError, AttributeError, TypeError, ValueError) as error:
            text = repr(self.values if self.is_list else self.values[0])
            raise InvalidRequestError(f"{self.name} = {text[:80]}: must be {_ALLOWED[self.datatype]}") from error
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "raw", raw)

    @property
    def json_value(self) -> Value | list[Value]:
        """The value as the generate endpoints take it."""
        return list(self.values) if self.is_list else self.values[0]


def request_tensors(prompt: str | Sequence[Message], options: Options, *, stream: bool) -> list[Tensor]:
    """The input tensors of one request; what the caller left open is not sent.

    Raises:
        InvalidRequestError: A value does not fit its tensor.
    """
    if isinstance(prompt, str):
        tensors = [Tensor("text_input", "BYTES", (prompt,))]
    else:
        tensors = [Tensor("messages", "BYTES", (_messages_json(prompt),))]
    for name, (datatype, field) in OPTION_TENSORS.items():
        value = getattr(options, field)
        if value is not None:
            tensors.append(Tensor(name, datatype, (value,)))
    for name, words in (("stop_words", options.stop), ("bad_words", options.bad_words)):
        if words:
            tensors.append(_texts(name, words))
    flags = {
        "stream": stream,
        "ignore_eos": options.ignore_eos,
        "return_token_sources": options.token_sources,
        "return_log_probs": options.log_probs,
    }
    tensors.extend(Tensor(name, "BOOL", (True,)) for name, wanted in flags.items() if wanted)
    return tensors


def read_chunk(outputs: Mapping[str, list[Any]], position: int) -> Chunk:
    """Read one response; ``position`` is its number in order of arrival.

    Raises:
        ServerError: The response breaks the contract.
    """
    try:
        return Chunk(
            index=int(_first(outputs, "response_index", position)),
            text=_text(_first(outputs, "text_output", "")),
            token_ids=tuple(int(token) for token in outputs.get("token_ids", ())),
            token_sources=tuple(TokenSource(int(source)) for source in outputs.get("token_sources", ())),
            token_texts=tuple(_text(text) for text in outputs.get("token_texts", ())),
            log_probs=tuple(float(log_prob) for log_prob in outputs.get("output_log_probs", ())),
            finish_reason=_text(_first(outputs, "finish_reason", "")) or None,
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise ServerError(f"the server sent a response that breaks the contract: {error}") from error


def read_statistics(outputs: Mapping[str, list[Any]]) -> Statistics:
    """Read the statistics that come with the last response.

    Raises:
        ServerError: They are not the JSON that the contract promises.
    """
    text = _first(outputs, "cascade_stats", "{}")
    try:
        return Statistics.from_dict(json.loads(text))
    except (TypeError, ValueError, RecursionError) as error:
        raise ServerError(f"the server sent cascade_stats that break the contract: {error}") from error


def _plain(datatype: str, value: Value) -> Value:
    """The value as a type of Python's own: JSON knows none of numpy's."""
    if datatype in ("INT32", "UINT64"):
        return int(index(value))  # type: ignore[arg-type]  # what is no integer is the caller's error, caught above
    return float(value) if datatype == "FP32" and not isinstance(value, str) else value


def _packed(datatype: str, value: Value) -> bytes:
    if datatype == "BYTES":
        encoded = value.encode()  # type: ignore[union-attr]  # a number here is the caller's error, caught above
        return struct.pack("<I", len(encoded)) + encoded
    if datatype == "FP32" and not math.isfinite(value):  # type: ignore[arg-type]
        raise ValueError("not finite")
    return struct.pack(_PACKING[datatype], value)


def _texts(name: str, texts: str | Sequence[str]) -> Tensor:
    if isinstance(texts, str):  # each of its characters would be one
        raise InvalidRequestError(f"{name} = {texts!r:.80}: must be a tuple of texts")
    return Tensor(name, "BYTES", tuple(texts), is_list=True)


def _messages_json(messages: Sequence[Message]) -> str:
    try:
        return json.dumps([{"role": m["role"], "content": m["content"]} for m in messages], ensure_ascii=False)
    except (KeyError, TypeError) as error:
        raise InvalidRequestError("messages: each must have a role and a content, both text") from error


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not text")
    return value


def _first(outputs: Mapping[str, list[Any]], name: str, default: Any) -> Any:
    values = outputs.get(name)
    return values[0] if values else default
