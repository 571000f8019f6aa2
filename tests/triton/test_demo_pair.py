"""The demo pair behind the real server: the path that `make demo` takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from spec_cascade.serving.server import TritonServer
from tests.triton.clients import grpc_stream, post, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QUESTION = "What is the capital of France? Answer in one sentence."


@pytest.fixture(scope="module")
def demo_server(demo_engine: Path) -> Iterator[TritonServer]:
    with TritonServer(demo_engine) as running:
        yield running


@pytest.mark.parametrize("rule", ["strict", "token_v3:alpha=0.8"])
def test_both_protocols_stream_the_same_answer(demo_server: TritonServer, rule: str) -> None:
    question = {"messages": json.dumps([{"role": "user", "content": QUESTION}])}
    body = {**question, "max_tokens": 24, "temperature": 0.0, "deferral_rule": rule, "stream": True}
    events = post(demo_server, body, stream=True).events
    text = "".join(event["text_output"] for event in events)
    assert "Paris" in text
    assert text_of(list(grpc_stream(demo_server, body))) == text
    stats = json.loads(events[-1]["cascade_stats"])
    assert stats["rule"].startswith(rule)
    assert stats["lossy"] == (rule != "strict")
    assert stats["tokens_per_target_call"] > 1
    assert sum(event["num_output_tokens"] for event in events) == stats["num_output_tokens"]


def test_a_text_of_many_bytes_to_a_character_streams_whole(demo_server: TritonServer) -> None:
    body = {"text_input": "😀😀😀😀 日本語、日本語、", "max_tokens": 24, "temperature": 0.0, "ignore_eos": True}
    whole = post(demo_server, body).json["text_output"]
    pieces = [event["text_output"] for event in post(demo_server, {**body, "stream": True}, stream=True).events]
    assert "".join(pieces) == whole
    assert not any("\ufffd" in piece for piece in pieces[:-1])
