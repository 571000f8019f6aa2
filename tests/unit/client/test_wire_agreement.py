"""Client and server describe one wire: neither imports the other, this test imports both."""

from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace

import pytest

from spec_cascade.decoding.request import AUTO, FinishReason
from spec_cascade.decoding.request import TokenSource as ServerTokenSource
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade.errors import ConfigError
from spec_cascade.serving import wire
from spec_cascade.serving.prompt import make_prompt
from spec_cascade_client import InvalidRequestError, Options, PromptTooLongError, Statistics, TokenSource
from spec_cascade_client.errors import from_server
from spec_cascade_client.options import AUTO as CLIENT_AUTO
from spec_cascade_client.wire import request_tensors

DATATYPES = {"BYTES": wire.STRING, "INT32": wire.INT32, "UINT64": wire.UINT64, "FP32": wire.FP32, "BOOL": wire.BOOL}
INPUTS = {field.name: field for field in wire.ENSEMBLE_INPUTS}
OUTPUTS = {field.name: field for field in wire.ENSEMBLE_OUTPUTS}
EVERYTHING = Options(
    rule="strict", draft_length=1, max_tokens=1, temperature=1, top_k=1, top_p=1, min_p=0, seed=1, stop=("a", "b"),
    ignore_eos=True, token_sources=True, log_probs=True, timeout_ms=1, priority=0.25, bad_words=("c",), min_tokens=1,
    repetition_penalty=1.5, presence_penalty=1, frequency_penalty=1,
)  # fmt: skip


@pytest.mark.parametrize("prompt", ["Why?", [{"role": "user", "content": "Why?"}]])
def test_every_tensor_that_the_client_sends_is_an_input_of_the_server_with_its_type_and_shape(prompt):
    for tensor in request_tensors(prompt, EVERYTHING, stream=True):
        field = INPUTS[tensor.name]
        assert DATATYPES[tensor.datatype] == field.datatype, tensor.name
        assert field.dims == (1, -1 if tensor.is_list else 1), tensor.name
        assert field.neutral is None, tensor.name


def test_every_option_is_sent():
    assert len(request_tensors("Why?", EVERYTHING, stream=False)) == 1 + len(fields(Options))


@pytest.mark.parametrize(
    ("name", "datatype", "is_list"),
    [
        ("text_output", wire.STRING, False),
        ("token_ids", wire.INT32, True),
        ("token_sources", wire.INT32, True),
        ("token_texts", wire.STRING, True),
        ("output_log_probs", wire.FP32, True),
        ("finish_reason", wire.STRING, False),
        ("response_index", wire.INT32, False),
        ("cascade_stats", wire.STRING, False),
    ],
)
def test_every_tensor_that_the_client_reads_is_an_output_of_the_server(name, datatype, is_list):
    assert OUTPUTS[name].datatype == datatype
    assert OUTPUTS[name].is_list == is_list


def test_token_sources_mean_the_same_on_both_sides():
    assert {source.name: source.value for source in TokenSource} == {s.name: s.value for s in ServerTokenSource}


def test_an_automatic_draft_length_means_the_same_on_both_sides():
    assert CLIENT_AUTO == AUTO


def test_the_client_reads_every_count_that_the_server_sends():
    sent = RequestStatistics(rule="opt", num_draft_tokens=4, acceptance_histogram=[1, 2]).as_dict()
    assert {field.name for field in fields(Statistics)} >= set(sent)
    read = Statistics.from_dict(sent)
    assert read.acceptance_histogram == (1, 2)
    assert read.num_draft_tokens == 4
    assert hash(read) == hash(Statistics.from_dict(sent | {"seconds": {"draft": 1.0}}))


def test_the_documented_finish_reasons_exist():
    assert {"stop", "length", "timeout", "cancelled"} <= {reason.value for reason in FinishReason}


def test_the_client_knows_a_prompt_that_is_too_long_by_the_servers_words():
    tokenizer = SimpleNamespace(longest_token=9, encode_prompt=str.split)
    with pytest.raises(ConfigError) as caught:
        make_prompt({"text_input": "a " * 9}, tokenizer, max_tokens=8)
    error = from_server(caught.value, InvalidRequestError)
    assert isinstance(error, PromptTooLongError)
    assert error.limit == 8
