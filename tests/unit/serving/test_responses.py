"""Rounds become responses, and responses become text, without a token or a character lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from spec_cascade.decoding.request import FinishReason, GenerationRequest, RoundOutput, TokenSource
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade.errors import ConfigError
from spec_cascade.serving import wire
from spec_cascade.serving.detokenise import is_heartbeat, to_text
from spec_cascade.serving.errors import PassedOnError
from spec_cascade.serving.parse import CascadeRequest, read_fields
from spec_cascade.serving.responses import ResponseBuilder, failure, heartbeat, to_arrays
from tests.unit.decoding.sample_tokenizers import TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENIZER = TOKENIZERS["byte_level"]
TEXT = "  naïve café 😀👩‍👩‍👧 日本語 e\u0301 done"


def cascade_request(**options: Any) -> CascadeRequest:
    values = {"stream": True, "return_token_sources": False, "prompt_text": "", "request_token": "", **options}
    parameters = {name: values.pop(name) for name in ("stop_strings", "min_tokens", "log_probs") if name in values}
    sampling = SamplingParams(seed=7, **parameters)
    return CascadeRequest(generation=GenerationRequest(prompt_ids=(1, 2, 3), sampling=sampling), **values)


def rounds(ids: list[int], size: int, reason: FinishReason = FinishReason.LENGTH) -> Iterator[RoundOutput]:
    """The ids in rounds of ``size``, and an empty one at the end."""
    statistics = RequestStatistics(num_output_tokens=len(ids), num_draft_tokens=4, num_accepted_draft_tokens=3)
    for start in range(0, len(ids), size):
        block = tuple(ids[start : start + size])
        sources = (TokenSource.DRAFTER,) * (len(block) - 1) + (TokenSource.BONUS,)
        log_probs = tuple(-0.5 * token for token in block)
        yield RoundOutput(index=start // size, token_ids=block, sources=sources, log_probs=log_probs)
    yield RoundOutput(index=len(ids), token_ids=(), sources=(), finish_reason=reason, statistics=statistics)


def through_the_models(request: CascadeRequest, outputs: Iterator[RoundOutput]) -> list[dict[str, Any]]:
    """What the ensemble would answer: cascade's tensors, read and turned into text by postprocessing."""
    builder = ResponseBuilder(request)
    answers = []
    for output in outputs:
        values = builder.add(output)
        if values is not None:
            tensors = to_arrays(values, wire.CASCADE_OUTPUTS)
            assert tensors.keys() == values.keys()
            answers.append(to_text(read_fields(tensors, "", wire.CASCADE_OUTPUTS), TOKENIZER))
            to_arrays(answers[-1], wire.ENSEMBLE_OUTPUTS)
    return answers


@pytest.mark.parametrize("size", [1, 2, 5, 100])
@pytest.mark.parametrize("sources", [False, True])
def test_the_texts_of_a_stream_are_the_text_of_the_whole(size: int, sources: bool) -> None:
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False)
    answers = through_the_models(cascade_request(return_token_sources=sources), rounds(ids, size))
    assert "".join(a["text_output"] for a in answers) == TEXT
    assert [token for a in answers for token in a["token_ids"]] == ids
    assert sum(a["num_output_tokens"] for a in answers) == len(ids)
    assert [a["response_index"] for a in answers] == list(range(len(answers)))
    assert [a["finish_reason"] for a in answers] == [""] * (len(answers) - 1) + ["length"]
    for a in answers:
        assert ("token_sources" in a) == sources == ("token_texts" in a)
        if sources:
            assert len(a["token_sources"]) == len(a["token_texts"]) == len(a["token_ids"])
            assert not a["token_ids"] or "".join(a["token_texts"]) == a["text_output"]


def test_without_streaming_one_response_has_everything() -> None:
    ids = TOKENIZER.encode(TEXT, add_special_tokens=False)
    (answer,) = through_the_models(cascade_request(stream=False, return_token_sources=True), rounds(ids, 3))
    assert answer["text_output"] == TEXT == "".join(answer["token_texts"])
    assert answer["token_ids"] == ids
    assert answer["num_output_tokens"] == len(ids)
    assert len(answer["token_sources"]) == len(ids)


@pytest.mark.parametrize("stream", [False, True])
def test_each_token_has_its_log_probability_where_it_was_asked_for(stream: bool) -> None:
    ids = [3, 4, 5, 6, 7]
    answers = through_the_models(cascade_request(log_probs=True, stream=stream), rounds(ids, 2))
    assert [len(a["output_log_probs"]) for a in answers] == [len(a["token_ids"]) for a in answers]
    assert [p for a in answers for p in a["output_log_probs"]] == [-0.5 * token for token in ids]
    assert all("output_log_probs" not in a for a in through_the_models(cascade_request(), rounds(ids, 2)))


def test_a_token_that_the_target_would_never_write_has_a_finite_log_probability() -> None:
    """JSON knows no infinity: the server could not write the response."""
    builder = ResponseBuilder(cascade_request(log_probs=True))
    values = builder.add(
        RoundOutput(index=0, token_ids=(1,), sources=(TokenSource.DRAFTER,), log_probs=(-float("inf"),))
    )
    (log_prob,) = to_arrays(values or {}, wire.CASCADE_OUTPUTS)["output_log_probs"]
    assert np.isfinite(log_prob)
    assert log_prob < -1e38


def test_a_request_that_ran_out_of_time_ends_as_others_do() -> None:
    answers = through_the_models(cascade_request(), rounds([40, 41], 1, FinishReason.TIMEOUT))
    assert [a["finish_reason"] for a in answers] == ["", "", "timeout"]
    assert "cascade_stats" in answers[-1]


def test_the_last_response_says_what_ran() -> None:
    answers = through_the_models(cascade_request(), rounds([40, 41], 1))
    assert all("cascade_stats" not in a and "acceptance_rate" not in a for a in answers[:-1])
    last = answers[-1]
    assert (last["acceptance_rate"], last["total_accepted_draft_tokens"], last["total_draft_tokens"]) == (0.75, 3, 4)
    assert json.loads(last["cascade_stats"])["seed"] == 7
    assert json.loads(last["cascade_stats"])["num_output_tokens"] == 2


def test_the_text_ends_before_the_stop_string() -> None:
    ids = TOKENIZER.encode("one two STOP", add_special_tokens=False)
    answers = through_the_models(cascade_request(stop_strings=("STOP",)), rounds(ids, 1, FinishReason.STOP))
    assert "".join(a["text_output"] for a in answers) == "one two "
    assert answers[-1]["finish_reason"] == "stop"


def test_the_text_goes_on_past_a_stop_string_that_came_before_the_least_length() -> None:
    first, second = (TOKENIZER.encode(text, add_special_tokens=False) for text in ("one STOP", " two STOP three"))
    request = cascade_request(stop_strings=("STOP",), min_tokens=len(first))
    answers = through_the_models(request, rounds(first + second, 1, FinishReason.STOP))
    assert "".join(a["text_output"] for a in answers) == "one STOP two "


@pytest.mark.parametrize("stream", [False, True])
def test_an_echoed_prompt_comes_once_and_first(stream: bool) -> None:
    ids = TOKENIZER.encode(" there", add_special_tokens=False)
    answers = through_the_models(cascade_request(prompt_text="hello", stream=stream), rounds(ids, 1))
    assert "".join(a["text_output"] for a in answers) == "hello there"


def test_a_response_that_was_sent_does_not_change_when_tokens_are_added() -> None:
    builder = ResponseBuilder(cascade_request())
    first, second = rounds([1, 2], 1), rounds([1, 2], 1)
    values = builder.add(next(first))
    assert values is not None
    builder.add(next(second))
    assert list(values["output_ids"]) == [1]


def test_a_heartbeat_has_no_content() -> None:
    fields = read_fields(to_arrays(heartbeat("abc"), wire.CASCADE_OUTPUTS), "", wire.CASCADE_OUTPUTS)
    assert is_heartbeat(fields)
    assert fields == {"request_token": "abc"}
    values = ResponseBuilder(cascade_request()).add(next(rounds([1], 1)))
    assert not is_heartbeat(values or {})


def test_an_error_passes_through_postprocessing_as_it_is() -> None:
    fields = read_fields(
        to_arrays(failure("abc", ConfigError("x", 1, "2")), wire.CASCADE_OUTPUTS), "", wire.CASCADE_OUTPUTS
    )
    assert not is_heartbeat(fields)
    with pytest.raises(PassedOnError, match="x = 1 is not allowed: must be 2") as caught:
        to_text(fields, TOKENIZER)
    assert caught.value.status == "INVALID_ARG"


def test_arrays_have_the_types_of_the_wire() -> None:
    values = {
        "text_output": "é",
        "token_ids": [],
        "token_texts": ["é", ""],
        "acceptance_rate": 0.5,
        "response_index": 3,
    }
    arrays = to_arrays(values, wire.ENSEMBLE_OUTPUTS)
    assert {name: array.dtype for name, array in arrays.items()} == {
        "text_output": np.object_,
        "token_ids": np.int32,
        "token_texts": np.object_,
        "acceptance_rate": np.float32,
        "response_index": np.int32,
    }
    assert arrays["text_output"].tolist() == ["é".encode()]
    assert arrays["token_ids"].shape == (0,)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"error_message": "x"}, "error_status"),
        ({"error_message": "x", "error_status": "__init__"}, "error_status"),
        ({"output_ids": [1], "finish_reason": ""}, "num_output_tokens"),
        ({"output_ids": [1], "num_output_tokens": 1}, "finish_reason"),
    ],
)
def test_what_is_no_response_of_the_cascade_is_refused_by_name(fields: dict[str, Any], name: str) -> None:
    """A client may ask postprocessing itself."""
    with pytest.raises(ConfigError, match=rf"^{name} = "):
        to_text(fields, TOKENIZER)
