"""Requests that hostile or broken clients send, each with what the answer must say; grown from what was found.

`OURS` are refused by the models, with a text that names the field. `TRITONS` never reach a model: the server refuses
them in its own words.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import service_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

INF = float("inf")


def body(**fields: Any) -> bytes:
    """A request that is answered, but for these fields."""
    return json.dumps({"text_input": "hi", "max_tokens": 2, **fields}).encode()


def conversation(text: str) -> bytes:
    return json.dumps({"messages": text, "max_tokens": 2}).encode()


OURS: dict[str, tuple[bytes, str]] = {
    "invalid UTF-8": (b'{"text_input": "\xff"}', r"text_input = .*valid UTF-8"),
    "invalid UTF-8 in a list": (b'{"text_input": "hi", "stop_words": ["\xc3"]}', r"stop_words = .*valid UTF-8"),
    "invalid UTF-8 in a key": (b'{"text_input": "hi", "\xff": 1}', r"parameters = .*valid UTF-8"),
    "invalid UTF-8 in a parameter": (b'{"text_input": "hi", "foo": "\xff"}', r"parameters = .*valid UTF-8"),
    "NUL": (body(text_input="a\0b"), "text_input = .*NUL"),
    "NUL in a list": (body(bad_words=["\0"]), "bad_words = .*NUL"),
    "no prompt": (b'{"max_tokens": 2}', "text_input = None"),
    "empty prompt": (body(text_input=""), "text_input = '' .*at least one token"),
    "long prompt": (body(text_input="the " * 500), "text_input = .*at most 255 tokens"),
    "huge prompt": (body(text_input="a" * 2**22), "text_input = '4194304 characters' .*at most 255 tokens"),
    "two prompts": (body(messages="[]"), "text_input = .*one of the two"),
    "messages are no JSON": (conversation("hi"), "messages = 'hi' .*JSON"),
    "messages are deep JSON": (conversation("[" * 3000), "messages = .*JSON"),
    "messages are a long number": (conversation("9" * 5000), "messages = .*is not allowed"),
    "messages are huge": (conversation("[" + "{}," * 10**6), "messages = .*at most 255 tokens"),
    "messages have no role": (conversation('[{"content": "hi"}]'), r"messages\[0\] = .*role"),
    "lone surrogate in messages": (conversation(r'[{"role": "user", "content": "\ud800"}]'), "messages.*surrogates"),
    "NaN": (b'{"text_input": "hi", "temperature": NaN}', "temperature = nan"),
    "infinity": (b'{"text_input": "hi", "presence_penalty": -Infinity}', "presence_penalty = -inf"),
    "beyond float32": (body(temperature=1e39), "temperature = inf"),
    "denormal": (body(temperature=1e-40), r"temperature = .*1e-05"),
    "beyond int32": (body(max_tokens=2**31), "max_tokens = -2147483648"),
    "top_p": (body(top_p=1.01), "top_p = "),
    "min_p": (body(min_p=-0.1), "min_p = "),
    "top_k": (body(top_k=-1), "top_k = -1"),
    "end_id": (body(end_id=-2), "end_id = -2"),
    "draft_length": (body(draft_length=2**31 - 1), "draft_length = 2147483647"),
    "many words": (body(stop_words=["x"] * 65), "stop_words = .*at most 64 strings"),
    "many empty words": (body(bad_words=[""] * 10**5), "bad_words = .*at most 64 strings"),
    "long word": (body(stop_words=["x" * 1001]), "stop_words = .*at most 1000 characters"),
    "long rule": (body(deferral_rule="strict," * 1000), "deferral_rule = .*at most 4096 characters"),
    "deep rule": (body(deferral_rule="any_of(" * 500), "deferral_rule = "),
    "rule with a NaN": (body(deferral_rule="token_v3:alpha=nan"), r"alpha = 'nan'"),
    "rule that is code": (body(deferral_rule="os:system"), "deferral_rule = 'os:system'"),
    "unknown key": (body(tempature=1), "tempature = 1 .*did you mean 'temperature'"),
    "unknown key in parameters": (body(parameters={"top_q": 1}), "top_q = 1 .*did you mean 'top_p'"),
    "long key": (body(**{"x" * 10**6: 1}), "x = 1 .*no such input"),
    "many keys": (body(**{f"k{i}": i for i in range(2000)}), "k[0-9]+ = .*no such input"),
    "odd key": (body(**{'a"b\\\n{': "c"}), "a.*no such input"),
    "name of another's request": (body(request_token="x"), "request_token = 'x' .*no such input"),
    "order to cancel": (body(cancel_token="x"), "cancel_token = 'x' .*no such input"),
    "Triton's own fields": (body(sequence_id=5), "sequence_id = 5 .*no such input"),
    "what kills the server on infer": (body(classification=3), "classification = 3 .*no such input"),
    "not implemented": (body(beam_width=2), "beam_width = 2 .*does not implement"),
}

TRITONS: dict[str, bytes] = {
    "nothing": b"",
    "NUL bytes": b"\0" * 100,
    "truncated": body()[:-3],
    "trailing": body() + b"x",
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "form": b"text_input=hi",
    "NUL in a key": b'{"a\\u0000b": 1, "text_input": "hi"}',
    "lone surrogate": b'{"text_input": "\\ud800"}',
    "number beyond float64": b'{"text_input": "hi", "temperature": 1e999}',
    "number beyond int64": b'{"text_input": "hi", "max_tokens": 99999999999999999999}',
    "negative seed": body(seed=-1),
    "fraction for an integer": body(max_tokens=1.5),
    "bool for an integer": body(max_tokens=True),
    "null for an integer": body(max_tokens=None),
    "text for a number": body(temperature="hot"),
    "number for text": body(text_input=5),
    "object for text": body(text_input={"a": 1}),
    "mixed list": body(stop_words=["a", 1]),
    "empty list for a scalar": body(text_input=[]),
    "two prompts in a list": body(text_input=["a", "b"]),
    "key twice": b'{"text_input": "hi", "text_input": "ho"}',
    "nested object": body(nested={"a": {"b": 1}}),
    "deep list": body()[:-1] + b', "x": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    "parameters are a list": body(parameters=[1]),
    "id is an object": body(id={}),
}


def infer_body(*inputs: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"inputs": list(inputs), **more}).encode()


def text(**more: Any) -> dict[str, Any]:
    return {"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "data": ["hi"], **more}


INFER: dict[str, tuple[bytes, str]] = {
    "nothing": (b"{}", "inputs"),
    "no inputs": (infer_body(), "text_input = None"),
    "wrong datatype": (infer_body(text(datatype="INT32", data=[1])), "text_input.*INT32.*BYTES"),
    "no datatype": (infer_body(text(datatype="FOO")), "datatype.*text_input"),
    "wrong shape": (infer_body(text(shape=[2, 1], data=["a", "b"])), "text_input"),
    "negative shape": (infer_body(text(shape=[-1, -1])), "shape"),
    "shape that overflows": (infer_body(text(), text(name="stop_words", shape=[1, 2**62])), "stop_words"),
    "no data": (infer_body({"name": "text_input", "datatype": "BYTES", "shape": [1, 1]}), "data"),
    "less data than said": (infer_body(text(data=[], shape=[1, 1])), "."),
    "binary data that is not there": (
        infer_body({"name": "text_input", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": 9}}),
        "text_input",
    ),
    "shared memory of another": (
        infer_body(
            {
                "name": "text_input",
                "datatype": "BYTES",
                "shape": [1, 1],
                "parameters": {"shared_memory_region": "x", "shared_memory_byte_size": 5},
            }
        ),
        "shared memory",
    ),
    "input twice": (infer_body(text(), text()), "text_input"),
    "unknown input": (infer_body(text(), text(name="tempature")), "tempature"),
    "unknown output": (infer_body(text(), outputs=[{"name": "text"}]), "text"),
    "unknown parameter": (infer_body(text(), parameters={"tempature": 1}), "did you mean 'temperature'"),
    "invalid UTF-8 in a parameter": (
        infer_body(text(), parameters={"x": "?"}).replace(b'"?"', b'"\xff"'),
        "parameters = .*UTF-8",
    ),
}


def grpc_request(model: str) -> Any:
    """A request that is answered."""
    request = service_pb2.ModelInferRequest(model_name=model)
    request.inputs.add(name="text_input", datatype="BYTES", shape=[1, 1]).contents.bytes_contents.append(b"hi")
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1, 1]).contents.int_contents.append(2)
    return request


def _text(value: bytes) -> Callable[[Any], object]:
    return lambda request: request.inputs[0].contents.bytes_contents.__setitem__(0, value)


def _number(name: str, value: float) -> Callable[[Any], object]:
    return lambda request: request.inputs.add(name=name, datatype="FP32", shape=[1, 1]).contents.fp32_contents.append(
        value
    )


def _words(count: int, shape: list[int]) -> Callable[[Any], object]:
    return lambda request: request.inputs.add(
        name="stop_words", datatype="BYTES", shape=shape
    ).contents.bytes_contents.extend([b""] * count)


def _parameter(name: str, **value: Any) -> Callable[[Any], object]:
    return lambda request: request.parameters[name].MergeFrom(service_pb2.InferParameter(**value))


def _raw(*contents: bytes) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        for tensor in request.inputs:
            tensor.ClearField("contents")
        request.raw_input_contents.extend(contents)

    return change


def _set(index: int, **fields: Any) -> Callable[[Any], object]:
    def change(request: Any) -> None:
        for name in fields:
            request.inputs[index].ClearField(name)
        request.inputs[index].MergeFrom(service_pb2.ModelInferRequest.InferInputTensor(**fields))

    return change


GRPC: dict[str, tuple[Callable[[Any], object], str]] = {
    "invalid UTF-8": (_text(b"\xff\xfe"), "text_input = .*valid UTF-8"),
    "NUL": (_text(b"a\0b"), "text_input = .*NUL"),
    "empty prompt": (_text(b""), "text_input = '' .*at least one token"),
    "huge prompt": (_text(b"a" * 2**22), "text_input = '4194304 characters' .*at most 255 tokens"),
    "NaN": (_number("temperature", float("nan")), "temperature = nan"),
    "infinity": (_number("repetition_penalty", INF), "repetition_penalty = inf"),
    "NaN in a parameter": (_parameter("temperature", double_param=float("nan")), "temperature = nan .*finite"),
    "infinity in a parameter": (_parameter("top_p", double_param=-INF), "top_p = -inf .*finite"),
    "unknown parameter": (_parameter("tempature", string_param="x"), "tempature = 'x' .*did you mean 'temperature'"),
    "odd parameter": (_parameter('a"b\\\n', string_param='"\\\n'), "a.*no such input"),
    "parameter of the wrong type": (_parameter("stream", int64_param=1), "stream = 1 .*BOOL"),
    "parameter of no type": (_parameter("temperature"), "temperature"),
    "reserved parameter": (_parameter("triton_x", string_param="x"), "triton_"),
    "many words": (_words(10**5, [1, 10**5]), "stop_words = .*at most 64 strings"),
    "fewer words than said": (_words(1, [1, 3]), "stop_words"),
    "shape that overflows": (_words(1, [2**33, 2**33]), "stop_words"),
    "size that overflows": (_words(1, [1, 2**62]), "stop_words"),
    "negative shape": (_set(0, shape=[-1, -1]), "text_input"),
    "no shape": (lambda request: request.inputs[0].ClearField("shape"), "text_input"),
    "flat shape": (_set(0, shape=[1]), "text_input"),
    "wrong datatype": (_set(1, datatype="FP32"), "max_tokens"),
    "datatype that there is not": (_set(1, datatype="FOO"), "max_tokens"),
    "unknown input": (_set(1, name="max_tokenz"), "max_tokenz"),
    "no name": (_set(1, name=""), "unexpected inference input"),
    "input twice": (lambda request: request.inputs.append(request.inputs[0]), "text_input"),
    "no contents": (lambda request: request.inputs[0].ClearField("contents"), "text_input"),
    "string longer than its bytes": (_raw(b"\xff\xff\xff\xffhi", b"\1\0\0\0"), "text_input"),
    "length cut off": (_raw(b"\2\0", b"\1\0\0\0"), "text_input"),
    "two strings for one": (_raw(b"\1\0\0\0a\1\0\0\0b", b"\1\0\0\0"), "text_input"),
    "half an integer": (_raw(b"\2\0\0\0hi", b"\1\0"), "max_tokens"),
    "too few contents": (_raw(b"\2\0\0\0hi"), "max_tokens"),
    "unknown output": (lambda request: request.outputs.add(name="text"), "text"),
    "version": (lambda request: setattr(request, "model_version", "9"), "version 9"),
    "version that is no number": (lambda request: setattr(request, "model_version", "x"), "'x'"),
}

# To the models inside the ensemble, which a client can reach as well.
INSIDE: dict[str, tuple[str, dict[str, Any], str]] = {
    "tokens beyond the vocabulary": ("cascade", {"input_ids": [10**6]}, "vocabulary"),
    "negative token": ("cascade", {"input_ids": [-1]}, "vocabulary"),
    "no tokens": ("cascade", {}, "input_ids"),
    "long prompt": ("cascade", {"input_ids": [1] * 300}, "at most 255 tokens"),
    "more tokens than any prompt has": ("cascade", {"input_ids": [1] * (2**20 + 1)}, "input_ids = .*at most 1048576"),
    "empty prompt": ("preprocessing", {"text_input": ""}, "text_input"),
    "no statistics": ("postprocessing", {"output_ids": [1]}, "num_output_tokens = None"),
    "a status that there is not": (
        "postprocessing",
        {"output_ids": [1], "error_message": "x", "error_status": "__init__"},
        "error_status = '__init__'",
    ),
}
