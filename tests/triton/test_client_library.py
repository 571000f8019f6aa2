"""The client library against a real server: both protocols give the same, and errors have their types."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from spec_cascade_client import (
    Client,
    IdleTimeoutError,
    InvalidRequestError,
    Options,
    ServerError,
    TokenSource,
    UnavailableError,
)
from tests.triton.conftest import eventually
from tests.unit.serving.scripted import FAIL, HUSHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.serving.server import TritonServer
    from tests.triton.conftest import ScriptedServer

PROMPT = "the cat sat on the mat 日本語 😀 and"
OPTIONS = Options(rule="token_v3:alpha=0.9", max_tokens=24, temperature=1, seed=7, ignore_eos=True)
PROTOCOLS = ["grpc", "http"]
PLACES = 6
"""Of the scripted engine: four that run, two that wait."""


def url_of(server: TritonServer, protocol: str) -> str:
    return server.grpc_url if protocol == "grpc" else server.http_url


@pytest.fixture
def _places_free(scripted_server: ScriptedServer) -> Iterator[None]:
    yield
    eventually(lambda: scripted_server.counts()["live"] == 0)


@pytest.fixture(params=PROTOCOLS)
def client(request: pytest.FixtureRequest, server: TritonServer) -> Iterator[Client]:
    with Client(url_of(server, request.param), idle_timeout=60) as client:
        yield client


def test_a_stream_joins_to_what_one_response_says(client: Client) -> None:
    whole = client.generate(PROMPT, OPTIONS)
    with client.stream(PROMPT, OPTIONS) as stream:
        chunks = list(stream)
    result = stream.result()
    assert len(chunks) > 1
    assert (result.text, result.token_ids, result.token_sources) == (whole.text, whole.token_ids, whole.token_sources)
    assert result.statistics == whole.statistics
    assert len(result.token_ids) == 24
    assert result.finish_reason == "length"


def test_each_token_has_a_source_and_the_text_it_released(client: Client) -> None:
    for chunk in client.stream(PROMPT, OPTIONS):
        assert len(chunk.token_sources) == len(chunk.token_ids)
        if chunk.token_ids:
            assert "".join(chunk.token_texts) == chunk.text
            assert len(chunk.token_texts) == len(chunk.token_ids)


def test_the_statistics_count_what_the_sources_say(client: Client) -> None:
    result = client.generate(PROMPT, OPTIONS)
    assert result.statistics.num_output_tokens == len(result.token_ids)
    assert result.statistics.num_accepted_draft_tokens == result.token_sources.count(TokenSource.DRAFTER)
    assert result.statistics.num_bonus_tokens == result.token_sources.count(TokenSource.BONUS)
    assert result.statistics.rule.startswith("token_v3:alpha=0.9")


def test_a_conversation_is_not_its_text(client: Client) -> None:
    greedy = Options(max_tokens=8, temperature=0, ignore_eos=True)
    chat = client.chat([{"role": "user", "content": "the cat"}], greedy)
    assert chat.statistics.num_prompt_tokens > client.generate("the cat", greedy).statistics.num_prompt_tokens


def test_a_bad_field_is_an_invalid_request_that_names_it(client: Client) -> None:
    for options, word in ((Options(temperature=-1), "temperature"), (Options(rule="token_v4:alpha=1"), "token_v")):
        with pytest.raises(InvalidRequestError, match=word):
            client.generate(PROMPT, options)
        with pytest.raises(InvalidRequestError, match=word):
            client.stream(PROMPT, options).result()


def test_no_number_of_bad_requests_brings_the_server_down(client: Client) -> None:
    for _ in range(50):
        with pytest.raises(InvalidRequestError):
            client.generate(PROMPT, Options(temperature=-1))
    assert len(client.generate(PROMPT, Options(max_tokens=2, ignore_eos=True)).token_ids) == 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_leaving_a_stream_frees_its_place_on_the_server(server: TritonServer, protocol: str) -> None:
    long = Options(max_tokens=200, ignore_eos=True, draft_length=0)
    with Client(url_of(server, protocol)) as client:
        # More than the engine has places and waiting room for.
        for _ in range(66):
            with client.stream(PROMPT, long) as stream:
                next(stream)
        start = time.monotonic()
        client.generate(PROMPT, Options(max_tokens=2))
        assert time.monotonic() - start < 10


@pytest.mark.usefixtures("_places_free")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_full_server_is_unavailable(scripted_server: ScriptedServer, protocol: str) -> None:
    silent = Options(seed=HUSHED, max_tokens=100)
    with Client(url_of(scripted_server.server, protocol)) as client, ExitStack() as streams:
        for _ in range(PLACES):
            next(streams.enter_context(client.stream("abc", silent)))
        with pytest.raises(UnavailableError, match=r"^too many requests wait"):
            client.generate("abc", silent)


@pytest.mark.usefixtures("_places_free")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_failure_of_the_engine_comes_after_what_was_written(scripted_server: ScriptedServer, protocol: str) -> None:
    with Client(url_of(scripted_server.server, protocol)) as client:
        stream = client.stream("abc", Options(seed=FAIL, max_tokens=100))
        assert next(stream).index == 0
        with pytest.raises(ServerError, match=r"^the GPU is on fire$"):
            next(stream)


@pytest.mark.usefixtures("_places_free")
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_silence_in_mid_stream_is_noticed_and_frees_the_place(scripted_server: ScriptedServer, protocol: str) -> None:
    with Client(url_of(scripted_server.server, protocol), idle_timeout=2) as client:
        stream = client.stream("abc", Options(seed=HUSHED, max_tokens=100))
        next(stream)
        with pytest.raises(IdleTimeoutError):
            next(stream)
        eventually(lambda: scripted_server.counts()["live"] == 0)
