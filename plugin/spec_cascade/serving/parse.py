"""From tensors and parameters to a request: every value checked, every error naming its field."""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError, did_you_mean
from spec_cascade.serving import wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from spec_cascade.rules import DeferralRule
    from spec_cascade.serving.policy import Policy
    from spec_cascade.serving.wire import Field, Scalar

    Value = Scalar | list[Scalar]
    Fields = dict[str, Value]

MAX_NAME_LENGTH = 80
MAX_TOKEN_LENGTH = 64
_NUMBERS = {wire.INT32: (-(2**31), 2**31), wire.UINT64: (0, 2**64)}
_LARGEST_FP32 = (2 - 2**-23) * 2.0**127


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeRequest:
    """What the cascade model is asked for.

    Attributes:
        generation: For the engine.
        stream: One response for each round, or one for all.
        return_token_sources: Say who wrote each token.
        prompt_text: What the output shall begin with; empty for nothing.
        request_token: Names the request within the server; empty when nobody needs to.
    """

    generation: GenerationRequest
    stream: bool
    return_token_sources: bool
    prompt_text: str
    request_token: str


def read_fields(
    tensors: Mapping[str, NDArray[Any]], parameters: str, inputs: Iterable[Field], known: Iterable[Field] = ()
) -> Fields:
    """Read a request's values by the names of their fields; aliases are resolved.

    A request parameter may stand for a tensor of one element: Triton's generate endpoint turns the members of a
    ``parameters`` object, and every member of the body that is no tensor, into request parameters.

    Args:
        tensors: The input tensors.
        parameters: The request parameters as JSON.
        inputs: The inputs of this model.
        known: Further names that the request may have as parameters, meant for another model.

    Raises:
        ConfigError: A name is unknown or given twice, a value is not of its field's type, or longer than its field may
            be, or the field is not implemented and the value asks for something.
    """
    fields = {field.name: field for field in inputs}
    values: Fields = {}
    for name, array in tensors.items():
        _put(values, fields[name], _from_tensor(fields[name], array))
    allowed = [*fields, *(field.name for field in known)]
    for name, value in json.loads(parameters or "{}").items():
        if name.startswith("triton_"):  # the server's own
            continue
        if name not in allowed:
            word = name[:MAX_NAME_LENGTH]
            raise ConfigError(word, value, f"left out: there is no such input{did_you_mean(word, allowed)}")
        if name in fields:
            _put(values, fields[name], [_from_json(fields[name], value)])
    return values


def parse_cascade_request(fields: Fields, policy: Policy | None = None) -> CascadeRequest:
    """Make a request of the fields of the cascade model.

    Args:
        fields: Read with `read_fields`.
        policy: What requests may ask for; None allows everything that the engine can do.

    Raises:
        ConfigError: A value is not allowed, or not here.
    """
    rule = _rule(fields)
    if policy is not None:
        fields, rule = policy.bounded(fields), policy.rule(rule)
    prompt_ids = _list(fields, "input_ids")
    if not prompt_ids:
        raise ConfigError("input_ids", prompt_ids, "at least one token")
    ignore_eos, stop_token_ids = _end(fields)
    sampling = SamplingParams(
        **_present(fields, "max_tokens", "min_tokens", "temperature", "top_k", "min_p"),
        **_present(fields, "repetition_penalty", "presence_penalty", "frequency_penalty"),
        # 0 asks for nothing, as it does in TensorRT-LLM.
        top_p=float(_scalar(fields, "top_p", 1.0)) or 1.0,
        seed=int(_scalar(fields, "seed", secrets.randbits(64))),
        stop_token_ids=stop_token_ids,
        stop_strings=_words(fields, "stop_words"),
        bad_words=_words(fields, "bad_words"),
        ignore_eos=ignore_eos,
        log_probs=bool(_scalar(fields, "return_log_probs", False)),
    )
    return CascadeRequest(
        generation=GenerationRequest(
            prompt_ids=tuple(int(token) for token in prompt_ids),
            sampling=sampling,
            rule=rule,
            # Who names a seed wants the same output again, whatever the server measures meanwhile.
            reproducible="seed" in fields,
            **_present(fields, "draft_length", "timeout_ms", "priority"),
        ),
        stream=bool(_scalar(fields, "stream", False)),
        return_token_sources=bool(_scalar(fields, "return_token_sources", False)),
        prompt_text=str(_scalar(fields, "prompt_text", "")),
        request_token=_request_token(fields),
    )


def _put(values: Fields, field: Field, elements: list[Scalar]) -> None:
    name = field.alias_of or field.name
    value: Value = elements if field.is_list else elements[0]
    if name in values:
        raise ConfigError(field.name, value, f"left out: {name} is given already, perhaps by another of its names")
    if field.neutral is not None:
        if any(element not in field.neutral for element in elements):
            allowed = " or ".join(json.dumps(v) for v in field.neutral)
            raise ConfigError(field.name, value, f"{allowed}: this version does not implement it")
        return
    values[name] = value


def _from_tensor(field: Field, array: NDArray[Any]) -> list[Scalar]:
    if field.max_elements is not None and array.size > field.max_elements:
        raise ConfigError(field.name, f"{array.size} elements", field.allowed or f"at most {field.max_elements}")
    elements: list[Scalar] = array.ravel().tolist()  # the server has checked the tensor's datatype and shape
    return [_text(field, _decoded(field, e)) for e in elements] if field.datatype == wire.STRING else elements


def _decoded(field: Field, element: object) -> str:
    if not isinstance(element, bytes):
        return str(element)
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(field.name, element, "valid UTF-8") from error


def _from_json(field: Field, value: object) -> Scalar:
    """A parameter's value, if it is of the field's type; a whole number is a number too."""
    if field.datatype == wire.STRING and isinstance(value, str):
        return _text(field, value)
    if field.datatype == wire.BOOL and isinstance(value, bool):
        return value
    if field.datatype == wire.FP32 and isinstance(value, (int, float)) and not isinstance(value, bool):
        return _finite(field, value)
    if field.datatype in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
        low, end = _NUMBERS[field.datatype]
        if low <= value < end:
            return value
    raise ConfigError(field.name, value, f"of type {field.datatype.removeprefix('TYPE_')}")


def _finite(field: Field, value: float) -> float:
    if not abs(value) <= _LARGEST_FP32:  # no comparison holds of what is not a number
        raise ConfigError(field.name, value, "a finite number of type FP32")
    return float(value)


def _text(field: Field, text: str) -> str:
    if field.max_length is not None and len(text) > field.max_length:
        allowed = field.allowed or f"at most {field.max_length} characters"
        raise ConfigError(field.name, f"{len(text)} characters", allowed)
    if "\0" in text:
        raise ConfigError(field.name, text, "text without NUL characters")
    return text


def _scalar(fields: Fields, name: str, default: Scalar) -> Scalar:
    value = fields.get(name, default)
    assert not isinstance(value, list)
    return value


def _list(fields: Fields, name: str) -> list[Scalar]:
    value = fields.get(name, [])
    assert isinstance(value, list)
    return value


def _present(fields: Fields, *names: str) -> dict[str, Any]:
    return {name: fields[name] for name in names if name in fields}


def _words(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(str(word) for word in _list(fields, name) if word)


def _request_token(fields: Fields) -> str:
    token = str(_scalar(fields, "request_token", ""))
    if len(token) > MAX_TOKEN_LENGTH:  # it goes with every response
        raise ConfigError("request_token", token, f"at most {MAX_TOKEN_LENGTH} characters")
    return token


def _end(fields: Fields) -> tuple[bool, tuple[int, ...]]:
    """Whether to ignore the model's end token, and the tokens that end the output beside it."""
    ignore_eos = bool(_scalar(fields, "ignore_eos", False))
    if "end_id" not in fields:
        return ignore_eos, ()
    end_id = int(_scalar(fields, "end_id", 0))
    if end_id < -1:
        raise ConfigError("end_id", end_id, "a token id, or -1 to go on past the model's end token")
    return ignore_eos or end_id == -1, (end_id,) if end_id >= 0 else ()


def _rule(fields: Fields) -> DeferralRule | None:
    if "deferral_rule" not in fields:
        return None
    from spec_cascade.rules import parse_rule  # imports torch, which the models without an engine do without

    return parse_rule(str(fields["deferral_rule"]), allow_import=False)
