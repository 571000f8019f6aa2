"""Sixty-four requests at a time, of mixed rules and lengths, asked in every way: each gets the engine's own text."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines import open_engine
from spec_cascade.rules import parse_rule
from tests.triton.clients import NUMPY, TIMEOUT, TYPES, grpc_stream, post, text_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spec_cascade.serving.server import TritonServer

RULES = ["strict", "token_v3:alpha=0.5", "chow:alpha=0.5", "target_only"]
WAYS = ["generate", "generate_stream", "infer", "grpc unary", "grpc", "grpc stream", "generate", "grpc stream"]
BODIES: list[dict[str, Any]] = [
    {
        "text_input": f"the cat sat on 😀 {i}" * (1 + i % 3),
        "max_tokens": 4 + 3 * (i % 11),
        "seed": i,
        "temperature": [0.0, 0.8, 1.3][i % 3],
        "deferral_rule": rule,
        "ignore_eos": True,
    }
    for i, (rule, _) in enumerate(product(RULES, range(16)))
]


@pytest.fixture(scope="module")
def texts(tiny_engine_dir: Path) -> list[str]:
    """What the engine answers in this process, one request after the other."""
    tokenizer = Tokenizer.load(tiny_engine_dir / "tokenizer")
    engine = open_engine(tiny_engine_dir)
    try:
        return [tokenizer.decode([t for o in engine.submit(made(tokenizer, b)) for t in o.token_ids]) for b in BODIES]
    finally:
        engine.close()


def made(tokenizer: Tokenizer, body: dict[str, Any]) -> GenerationRequest:
    options = {name: body[name] for name in ("max_tokens", "seed", "temperature", "ignore_eos")}
    return GenerationRequest(
        prompt_ids=tuple(tokenizer.encode_prompt(body["text_input"])),
        sampling=SamplingParams(**options),
        rule=parse_rule(body["deferral_rule"]),
    )


def infer(client: Any, url: str, body: dict[str, Any], **options: Any) -> str:
    """Ask `ensemble_unary`."""
    inputs = []
    for name, value in body.items():
        inputs.append(client.InferInput(name, [1, 1], TYPES[name]))
        inputs[-1].set_data_from_numpy(np.array([[value]], dtype=NUMPY[TYPES[name]]))
    with client.InferenceServerClient(url, **options) as triton:
        text: str = triton.infer("ensemble_unary", inputs).as_numpy("text_output")[0].decode()
    return text


def test_each_of_many_requests_at_a_time_gets_the_engines_own_text(server: TritonServer, texts: list[str]) -> None:
    http, grpc = (url.partition("://")[2] for url in (server.http_url, server.grpc_url))

    def stream(body: dict[str, Any]) -> str:
        events = post(server, {**body, "stream": True}, stream=True).events
        assert [event["response_index"] for event in events] == list(range(len(events)))
        return "".join(event["text_output"] for event in events)

    ways: dict[str, Callable[[dict[str, Any]], str]] = {
        "generate": lambda body: str(post(server, body).json["text_output"]),
        "generate_stream": stream,
        "infer": lambda body: infer(httpclient, http, body, network_timeout=TIMEOUT),
        "grpc unary": lambda body: infer(grpcclient, grpc, body),
        "grpc": lambda body: text_of(list(grpc_stream(server, body))),
        "grpc stream": lambda body: text_of(list(grpc_stream(server, {**body, "stream": True}))),
    }
    with ThreadPoolExecutor(len(BODIES)) as pool:
        answers = pool.map(lambda i: ways[WAYS[i % len(WAYS)]](BODIES[i]), range(len(BODIES)))
        assert list(answers) == texts
