"""Every value is checked, and every error names its field."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spec_cascade.decoding.request import AUTO
from spec_cascade.errors import ConfigError
from spec_cascade.rules import parse_rule
from spec_cascade.serving import wire
from spec_cascade.serving.parse import CascadeRequest, parse_cascade_request, read_fields

DTYPES = {wire.BOOL: np.bool_, wire.INT32: np.int32, wire.UINT64: np.uint64, wire.FP32: np.float32}
FIELDS = {field.name: field for field in wire.CASCADE_INPUTS}


def tensor(name: str, value: Any) -> np.ndarray[Any, Any]:
    """The array that the server hands to a model for this value."""
    field = FIELDS[name]
    elements = value if field.is_list else [value]
    if field.datatype == wire.STRING:
        array = np.array([e if isinstance(e, bytes) else e.encode() for e in elements], dtype=np.object_)
    else:
        array = np.array(elements, dtype=DTYPES[field.datatype])
    return array.reshape(1, -1) if field.is_batch else array


def request(parameters: dict[str, Any] | None = None, **values: Any) -> CascadeRequest:
    values = {"input_ids": [1, 2], **values}
    tensors = {name: tensor(name, value) for name, value in values.items()}
    fields = read_fields(tensors, json.dumps(parameters or {}), wire.CASCADE_INPUTS, wire.PROMPT_INPUTS)
    return parse_cascade_request(fields)


def test_what_is_left_out_takes_its_default() -> None:
    parsed = request()
    sampling = parsed.generation.sampling
    assert parsed.generation.prompt_ids == (1, 2)
    assert parsed.generation.rule is None
    assert parsed.generation.draft_length is None
    assert not parsed.stream
    assert not parsed.return_token_sources
    defaults = {f.name: f.default for f in wire.GENERATION_INPUTS}
    numbers = ("max_tokens", "min_tokens", "temperature", "top_k", "top_p", "min_p")
    for name in (*numbers, "repetition_penalty", "presence_penalty", "frequency_penalty"):
        assert getattr(sampling, name) == float(defaults[name]), name
    assert (sampling.stop_strings, sampling.bad_words) == ((), ())
    assert (sampling.ignore_eos, sampling.log_probs) == (False, False)
    assert parsed.generation.timeout_ms is None
    assert parsed.generation.priority == float(defaults["priority"])


def test_every_value_arrives() -> None:
    parsed = request(
        max_tokens=7, temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, seed=2**64 - 1, stop_words=["a", "", "é"],
        ignore_eos=True, deferral_rule="token_v3:alpha=0.5", draft_length=2, stream=True, return_token_sources=True,
        prompt_text="hi", request_token="t", repetition_penalty=1.25, presence_penalty=-0.5, frequency_penalty=0.75,
        bad_words=["b", "", "ü"], min_tokens=6, return_log_probs=True, timeout_ms=1500,
        priority=0.75,
    )  # fmt: skip
    sampling = parsed.generation.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_k, sampling.top_p) == (7, 0.5, 3, 0.25)
    assert (sampling.min_p, sampling.seed, sampling.stop_strings) == (0.125, 2**64 - 1, ("a", "é"))
    assert sampling.ignore_eos
    assert str(parsed.generation.rule).startswith("token_v3")
    assert (parsed.generation.draft_length, parsed.stream, parsed.return_token_sources) == (2, True, True)
    assert (parsed.prompt_text, parsed.request_token) == ("hi", "t")
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1.25, -0.5, 0.75)
    assert (sampling.bad_words, sampling.min_tokens, sampling.log_probs) == (("b", "ü"), 6, True)
    assert (parsed.generation.timeout_ms, parsed.generation.priority) == (1500, 0.75)


def test_a_seed_that_is_left_out_is_random() -> None:
    assert request().generation.sampling.seed != request().generation.sampling.seed


def test_aliases_mean_their_field() -> None:
    assert request(random_seed=5).generation.sampling.seed == 5
    assert request(num_draft_tokens=3).generation.draft_length == 3


def test_minus_one_asks_for_an_automatic_draft_length() -> None:
    assert request(draft_length=-1).generation.draft_length == AUTO


def test_a_parameter_stands_for_a_tensor() -> None:
    parsed = request({"temperature": 0, "max_tokens": 3, "stop_words": "x", "stream": True, "triton_thing": 1})
    sampling = parsed.generation.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.stop_strings) == (0.0, 3, ("x",))
    assert parsed.stream


def test_parameters_for_another_model_of_the_ensemble_are_let_through() -> None:
    assert request({"apply_chat_template": True}).generation.prompt_ids == (1, 2)


def test_no_top_p_is_all_as_in_tensorrt_llm() -> None:
    assert request(top_p=0.0).generation.sampling.top_p == 1.0


def test_an_end_token_is_one_more_or_none() -> None:
    assert request(end_id=9).generation.sampling.stop_token_ids == (9,)
    assert request(end_id=-1).generation.sampling.ignore_eos


def test_values_that_ask_for_nothing_are_accepted_of_fields_that_are_not_implemented() -> None:
    neutral = {f.name: f.neutral[0] for f in wire.GENERATION_INPUTS if f.neutral}
    assert {"length_penalty", "beam_width", "return_context_logits"} <= neutral.keys()
    values = {name: [value] if FIELDS[name].is_list else value for name, value in neutral.items()}
    assert request(**values).generation.prompt_ids == (1, 2)


def test_what_tensorrt_llm_clients_send_to_ask_for_nothing_asks_for_nothing() -> None:
    neutral = {"repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "bad_words": [""]}
    sampling = request(seed=1, **neutral, min_tokens=0, return_log_probs=False).generation.sampling
    assert sampling == request(seed=1).generation.sampling


def test_the_least_length_may_be_the_whole() -> None:
    assert request(min_tokens=9, max_tokens=9, stop_words=["x"]).generation.sampling.min_tokens == 9


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"input_ids": []}, "input_ids"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -(2**31)}, "max_tokens"),
        ({"temperature": -0.5}, "temperature"),
        ({"temperature": NAN}, "temperature"),
        ({"temperature": INF}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": -0.1}, "top_p"),
        ({"top_p": NAN}, "top_p"),
        ({"min_p": 1.0}, "min_p"),
        ({"min_p": NAN}, "min_p"),
        ({"end_id": -2}, "end_id"),
        ({"draft_length": -2}, "draft_length"),
        ({"timeout_ms": 0}, "timeout_ms"),
        ({"timeout_ms": -1}, "timeout_ms"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"stop_words": ["x"] * 65}, "stop_words"),
        ({"stop_words": ["x" * 1001]}, "stop_words"),
        ({"stop_words": ["a\0b"]}, "stop_words"),
        ({"stop_words": [b"\xff"]}, "stop_words"),
        ({"deferral_rule": "strickt"}, "rule"),
        ({"deferral_rule": "token_v3:alpha=2"}, "alpha"),
        ({"deferral_rule": ""}, "rule"),
        ({"seed": 1, "random_seed": 1}, "seed"),
        ({"bad_words": ["x"] * 65}, "bad_words"),
        ({"bad_words": ["x" * 1001]}, "bad_words"),
        ({"bad_words": ["a\0b"]}, "bad_words"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": INF}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": NAN}, "frequency_penalty"),
        ({"beam_width": 2}, "beam_width"),
        ({"num_return_sequences": 2}, "num_return_sequences"),
        ({"return_context_logits": True}, "return_context_logits"),
        ({"guided_decoding_guide": "{}"}, "guided_decoding_guide"),
        ({"request_token": "x" * 65}, "request_token"),
    ],
)
def test_a_value_that_is_not_allowed_is_an_error_that_names_its_field(values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError, match=rf"^[^=]*{field}"):
        request(**values)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tempature": 1.0}, r"tempature = 1\.0 .*did you mean 'temperature'"),
        ({"max_token": 5}, r"max_token .*did you mean 'max_tokens'"),
        ({"xyzzy": 5}, "xyzzy = 5 .*no such input"),
        ({"temperature": "hot"}, "temperature = 'hot' .*FP32"),
        ({"temperature": NAN}, "temperature = nan .*finite"),
        ({"presence_penalty": -INF}, "presence_penalty = -inf .*finite"),
        ({"repetition_penalty": 4e38}, r"repetition_penalty = 4e\+38 .*finite number of type FP32"),
        ({"temperature": 10**400}, "temperature = 1000.*finite"),
        ({"stop_words": "x" * 1001}, "stop_words = '1001 characters' .*at most 1000"),
        ({"unary_token": "x"}, "unary_token = 'x' .*no such input"),
        ({"temperature": True}, "temperature = True .*FP32"),
        ({"max_tokens": 1.5}, r"max_tokens = 1\.5 .*INT32"),
        ({"max_tokens": 2**31}, "max_tokens = 2147483648 .*INT32"),
        ({"max_tokens": True}, "max_tokens = True .*INT32"),
        ({"seed": -1}, "seed = -1 .*UINT64"),
        ({"stream": 1}, "stream = 1 .*BOOL"),
        ({"deferral_rule": 3}, "deferral_rule = 3 .*STRING"),
        ({"request_token_": "x"}, "no such input"),
        ({"beam_width": 4}, "beam_width = 4 .*does not implement"),
        ({"min_tokens": 200}, r"min_tokens = 200 .*\[0, 128\], at most max_tokens"),
        ({"timeout_ms": 0.5}, r"timeout_ms = 0\.5 .*INT32"),
        ({"priority": 1.5}, r"priority = 1\.5 .*\[0, 1\]"),
    ],
)
def test_a_parameter_that_does_not_fit_is_an_error_that_names_it(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request(parameters)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stop_words": [""] * 65}, "stop_words = '65 elements' .*at most 64 strings"),
        ({"bad_words": ["x" * 1001]}, "bad_words = '1001 characters' .*at most 1000 characters"),
        ({"deferral_rule": "x" * 4097}, "deferral_rule = '4097 characters' .*at most 4096 characters"),
        ({"input_ids": [1] * (wire.MAX_TOKEN_IDS + 1)}, "input_ids = '1048577 elements' .*at most 1048576"),
        ({"cancel_token": "x" * 65}, "cancel_token = '65 characters' .*at most 64 characters"),
    ],
)
def test_what_is_too_long_is_refused_before_it_is_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        request(**values)


def test_the_longest_rule_on_the_wire_is_the_longest_there_is() -> None:
    with pytest.raises(ConfigError, match=f"at most {wire.MAX_RULE_LENGTH} characters"):
        parse_rule("x" * (wire.MAX_RULE_LENGTH + 1))
    with pytest.raises(ConfigError, match="must be one of"):
        parse_rule("x" * wire.MAX_RULE_LENGTH)


def test_every_string_that_a_client_may_send_is_bounded_but_the_prompt_which_the_engine_bounds() -> None:
    """The prompt's text comes back from preprocessing; what is not implemented must be empty."""
    unbounded = {
        field.name
        for field in (*wire.ENSEMBLE_INPUTS, *wire.CASCADE_INPUTS, wire.UNARY_TOKEN)
        if field.datatype == wire.STRING and field.max_length is None and field.neutral is None
    }
    assert unbounded == {"text_input", "messages", "prompt_text"}
    lists = [field for field in (*wire.ENSEMBLE_INPUTS, *wire.CASCADE_INPUTS) if field.is_list]
    assert all(field.max_elements for field in lists)


def test_a_value_is_given_once() -> None:
    with pytest.raises(ConfigError, match="max_tokens is given already"):
        request({"max_tokens": 3}, max_tokens=3)


def test_the_name_of_an_unknown_parameter_is_quoted_short() -> None:
    with pytest.raises(ConfigError) as caught:
        request({"x" * 10**6: 1})
    assert len(str(caught.value)) < 200


names = st.text() | st.sampled_from([f.name for f in wire.ENSEMBLE_INPUTS])


@given(st.dictionaries(names, st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=4))
def test_whatever_the_parameters_say_the_answer_is_a_request_or_an_error_of_a_field(parameters: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert request(parameters).generation.prompt_ids == (1, 2)
