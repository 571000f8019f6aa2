"""Both protocols, streaming and not: one text, the engine's own."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.utils import InferenceServerException

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.tokenizer import Tokenizer, bad_word_sequences
from spec_cascade.engines import open_engine
from spec_cascade.rules import parse_rule
from tests.triton.clients import grpc_stream, post, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spec_cascade.engines.protocol import Engine
    from spec_cascade.serving.server import TritonServer

PROMPT = "the cat sat on 😀"


@pytest.fixture(scope="module")
def engine(tiny_engine_dir: Path) -> Iterator[Engine]:
    """The engine in this process: what the server must agree with."""
    engine = open_engine(tiny_engine_dir)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def tokenizer(tiny_engine_dir: Path) -> Tokenizer:
    return Tokenizer.load(tiny_engine_dir / "tokenizer")


def expected_ids(engine: Engine, tokenizer: Tokenizer, body: dict[str, Any]) -> list[int]:
    """The tokens that the engine answers in this process."""
    options = {field.name: body[field.name] for field in fields(SamplingParams) if field.name in body}
    request = GenerationRequest(
        prompt_ids=tuple(tokenizer.encode_prompt(body["text_input"])),
        sampling=SamplingParams(**options),
        rule=parse_rule(body.get("deferral_rule", "strict")),
        draft_length=body.get("draft_length"),
    )
    return [token for output in engine.submit(request) for token in output.token_ids]


BODIES: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.0, "seed": 11, "ignore_eos": True},
    {"temperature": 0.7, "seed": 2**63 + 5, "deferral_rule": "token_v3:alpha=0.5", "ignore_eos": True},
    {"temperature": 1.3, "seed": 3, "deferral_rule": "target_only", "ignore_eos": True},
    {"temperature": 1.0, "seed": 4, "draft_length": 0, "ignore_eos": True},
    {"temperature": 0.0, "draft_length": -1, "repetition_penalty": 1.5, "min_tokens": 40},
    {"temperature": 0.75, "seed": 5, "draft_length": 3, "presence_penalty": 0.5, "frequency_penalty": 0.25},
]


@pytest.mark.parametrize("options", BODIES)
def test_all_ways_to_ask_give_the_engines_own_tokens_and_their_text(
    server: TritonServer, engine: Engine, tokenizer: Tokenizer, options: dict[str, Any]
) -> None:
    """Random weights write broken UTF-8 too: the pieces must still be the decoded whole."""
    body = {"text_input": PROMPT, "max_tokens": 40, **options}
    ids = expected_ids(engine, tokenizer, body)
    text = tokenizer.decode(ids)

    unary = post(server, body)
    assert (unary.status, unary.json["text_output"]) == (200, text)
    assert as_list(unary.json["token_ids"]) == ids

    streamed = post(server, {**body, "stream": True}, stream=True)
    assert streamed.status == 200
    assert "".join(event["text_output"] for event in streamed.events) == text
    assert [token for event in streamed.events for token in as_list(event["token_ids"])] == ids

    responses = list(grpc_stream(server, {**body, "stream": True}))
    assert text_of(responses) == text
    assert [token for response in responses for token in response["token_ids"].tolist()] == ids

    whole = list(grpc_stream(server, body))
    assert len(whole) == 1
    assert text_of(whole) == text


def as_list(value: Any) -> list[Any]:
    """The generate endpoints write a list of one element as the element."""
    return value if isinstance(value, list) else [value]


def test_a_stream_has_one_response_for_each_round_and_the_last_says_what_ran(server: TritonServer) -> None:
    body = {
        "text_input": PROMPT,
        "max_tokens": 30,
        "temperature": 0.0,
        "ignore_eos": True,
        "return_token_sources": True,
    }
    events = post(server, {**body, "stream": True}, stream=True).events
    assert [event["response_index"] for event in events] == list(range(len(events)))
    assert [event["finish_reason"] for event in events] == [""] * (len(events) - 1) + ["length"]
    assert {event["num_input_tokens"] for event in events} == {events[0]["num_input_tokens"]}
    assert sum(event["num_output_tokens"] for event in events) == 30
    for event in events:
        sources, ids, texts = (as_list(event[name]) for name in ("token_sources", "token_ids", "token_texts"))
        assert len(sources) == len(ids) == len(texts)
        assert "".join(texts) == event["text_output"]
    assert all("cascade_stats" not in event for event in events[:-1])
    stats = json.loads(events[-1]["cascade_stats"])
    assert stats["rule"].startswith("strict")
    assert stats["num_output_tokens"] == 30
    assert stats["num_target_calls"] == len(events)
    assert events[-1]["total_draft_tokens"] == stats["num_draft_tokens"] > 0


def test_the_same_seed_gives_the_same_text_and_no_seed_another(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 40, "ignore_eos": True}
    seeded = {post(server, {**body, "seed": 5}).json["text_output"] for _ in range(2)}
    free = {post(server, body).json["text_output"] for _ in range(3)}
    assert len(seeded) == 1
    assert len(free) > 1


def test_a_conversation_is_put_through_the_chat_template(server: TritonServer, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": "the cat"}]
    options = {"max_tokens": 8, "temperature": 0.0}
    rendered = post(server, {"text_input": tokenizer.render_chat(messages), **options}).json
    for body in (
        {"messages": json.dumps(messages), **options},
        {"text_input": "the cat", "apply_chat_template": True, **options},
    ):
        answer = post(server, body).json
        assert answer["text_output"] == rendered["text_output"]
        assert answer["num_input_tokens"] == rendered["num_input_tokens"]


def test_the_output_ends_before_a_stop_string(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 60, "temperature": 0.0, "ignore_eos": True}
    whole = post(server, body).json["text_output"]
    stop = whole[10:14]
    for stream in (False, True):
        answer = post(server, {**body, "stop_words": [stop, "never this"], "stream": stream}, stream=True)
        assert "".join(event["text_output"] for event in answer.events) == whole[: whole.index(stop)]
        assert answer.events[-1]["finish_reason"] == "stop"
        assert all(event["finish_reason"] == "" for event in answer.events[:-1])


def test_the_prompt_comes_first_where_it_is_not_excluded(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 4, "temperature": 0.0, "ignore_eos": True}
    bare = post(server, body).json["text_output"]
    for stream in (False, True):
        events = post(server, {**body, "exclude_input_in_output": False, "stream": stream}, stream=True).events
        assert "".join(event["text_output"] for event in events) == PROMPT + bare


def test_a_bad_word_of_the_greedy_answer_is_not_in_it_when_it_is_banned(
    server: TritonServer, tokenizer: Tokenizer
) -> None:
    body = {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0, "ignore_eos": True}
    free = as_list(post(server, body).json["token_ids"])
    words = {token: tokenizer.decode([token]) for token in free}
    token, word = next((t, w) for t, w in words.items() if (t,) in bad_word_sequences(tokenizer, w))
    banned = post(server, {**body, "bad_words": ["", word]})
    assert banned.status == 200
    assert token not in as_list(banned.json["token_ids"])


def test_the_log_probabilities_are_the_engines_own(server: TritonServer, engine: Engine, tokenizer: Tokenizer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 12, "temperature": 1.0, "seed": 8, "ignore_eos": True}
    sampling = SamplingParams(max_tokens=12, temperature=1.0, seed=8, ignore_eos=True, log_probs=True)
    prompt_ids = tuple(tokenizer.encode_prompt(PROMPT))
    outputs = list(engine.submit(GenerationRequest(prompt_ids=prompt_ids, sampling=sampling)))
    wanted = [log_prob for output in outputs for log_prob in output.log_probs]
    assert len(wanted) == 12
    for stream in (False, True):
        events = post(server, {**body, "return_log_probs": True, "stream": stream}, stream=True).events
        assert [p for event in events for p in as_list(event["output_log_probs"])] == pytest.approx(wanted, abs=1e-4)
    assert "output_log_probs" not in post(server, body).json


def test_a_request_that_runs_out_of_time_ends_with_what_it_has(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 200, "ignore_eos": True, "timeout_ms": 1, "temperature": 0.0}
    answer = post(server, body)
    assert (answer.status, answer.json["finish_reason"]) == (200, "timeout")
    assert answer.json["num_output_tokens"] < 200


def test_the_curl_of_tensorrt_llms_documentation_works(server: TritonServer) -> None:
    body = {"text_input": "What is", "max_tokens": 20, "bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2}
    answer = post(server, body)
    assert answer.status == 200
    assert isinstance(answer.json["text_output"], str)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tempature": 1.0}, "tempature = 1.0 is not allowed: .*did you mean 'temperature'"),
        ({"parameters": {"top_q": 0.5}}, "top_q = 0.5 .*did you mean 'top_p'"),
        ({"temperature": -1}, "temperature = -1.0"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"max_tokens": "many"}, "."),
        ({"deferral_rule": "stricted"}, "did you mean 'strict'"),
        ({"draft_length": 1000}, "draft_length = 1000"),
        ({"beam_width": 2}, "beam_width = 2 .*does not implement"),
        ({"repetition_penalty": 0}, "repetition_penalty = 0.0 .*> 0"),
        ({"min_tokens": 3}, "min_tokens = 3 .*at most max_tokens"),
        ({"timeout_ms": 0}, "timeout_ms = 0 .*>= 1"),
        ({"bad_words": ["x"] * 65}, "bad_words = .*at most 64"),
        ({"text_input": ""}, "text_input = '' .*at least one token"),
        ({"text_input": "the " * 500}, "at most 255 tokens"),
        ({"text_input": "a" * 10**6}, "at most 255 tokens"),
        ({"text_input": "a\0b"}, "text_input = .*NUL"),
        ({"text_input": ["two", "prompts"]}, "text_input"),
        ({"stop_words": ["x"] * 1000}, "stop_words = .*at most 64"),
        ({"messages": "[]"}, "one of the two"),
        ({"nested": {"a": {"b": 1}}}, "nested"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_request_is_refused_by_name_and_the_server_goes_on(
    server: TritonServer, fields: dict[str, Any], message: str, stream: bool
) -> None:
    answer = post(server, {"text_input": "hi", "max_tokens": 2, **fields}, stream=stream)
    assert 400 <= answer.status < 500 or (answer.status == 500 and fields == {"max_tokens": "many"})
    error = (answer.events[0] if answer.body.startswith("data: ") else answer.json)["error"]
    assert re.search(message, error), error
    assert "\n" not in error
    assert "/" not in error.replace("/v2", "")
    assert post(server, {"text_input": "hi", "max_tokens": 2}).status == 200


def test_the_same_errors_come_over_grpc(server: TritonServer) -> None:
    for values, message in (
        ({"text_input": "hi", "temperature": -1.0}, "temperature = -1.0"),
        ({"text_input": b"\xff"}, "text_input = .*valid UTF-8"),
        ({}, "text_input = None"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            list(grpc_stream(server, values))
    with pytest.raises(InferenceServerException, match=r"tempature .*did you mean 'temperature'"):
        list(grpc_stream(server, {"text_input": "hi"}, parameters={"tempature": 1}))


def test_broken_bodies_are_refused(server: TritonServer) -> None:
    for body in (b"", b"{", b"[]", b'"x"', b'{"text_input": "\xff"}', b"\0" * 100, b'{"text_input": 1e999}'):
        assert post(server, body).status >= 400, body
    assert post(server, {"text_input": "hi", "max_tokens": 2}).status == 200


def test_the_tokens_model_can_be_asked_directly(server: TritonServer, tokenizer: Tokenizer) -> None:
    body = {"input_ids": tokenizer.encode_prompt(PROMPT), "max_tokens": 9, "temperature": 0.0, "ignore_eos": True}
    answer = post(server, body, "cascade")
    assert answer.status == 200
    assert len(answer.json["output_ids"]) == 9
    refused = post(server, {**body, "input_ids": [10**6]}, "cascade")
    assert refused.status == 400
    assert "vocabulary" in refused.json["error"]
