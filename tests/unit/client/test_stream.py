"""What a stream hands over, in what order, and how it ends; over both protocols."""

from __future__ import annotations

import gc
import json
import threading
import time

from spec_cascade_client import (
    Client,
    Options,
    Piece,
    TokenSource,
)
from tests.unit.client.wire_servers import Pause, Send, chunk

STATS = {"rule": "token_v3:alpha=0.8", "lossy": True, "num_output_tokens": 5, "tokens_per_target_call": 2.5}
FIRST = chunk(0, " Die", [1, 2], [0, 0], [" D", "ie"])
# Three tokens make one character: the first two release nothing.
SECOND = chunk(1, "字!", [3, 4, 5], [0, 1, 2], ["", "字", "!"])
LAST = chunk(2, "", [], [], [], finish_reason=["length"], cascade_stats=[json.dumps(STATS)])
CHAT = [{"role": "user", "content": "Why?"}]


def test_chunks_come_in_order_and_join_to_the_result(serve, connect):
    record = serve(Send(FIRST), Send(SECOND), Send(LAST, final=True))
    with connect(record.url) as client, client.stream("Why?") as stream:
        chunks = list(stream)
        result = stream.result()
    assert [c.index for c in chunks] == [0, 1, 2]
    assert [c.text for c in chunks] == [" Die", "字!", ""]
    assert [c.finish_reason for c in chunks] == [None, None, "length"]
    assert result.text == " Die字!"
    assert result.token_ids == (1, 2, 3, 4, 5)
    assert result.token_sources == (0, 0, 0, 1, 2)
    assert result.finish_reason == "length"
    assert result.statistics.rule == "token_v3:alpha=0.8"
    assert result.statistics.tokens_per_target_call == 2.5


def test_each_token_has_its_log_probability_where_the_server_sends_them(serve, connect):
    first, second = FIRST | {"output_log_probs": [-0.5, -1.25]}, SECOND | {"output_log_probs": [-2.0, -0.125, -8.0]}
    record = serve(Send(first), Send(second), Send(LAST | {"output_log_probs": []}, final=True))
    with connect(record.url) as client, client.stream("Why?", Options(log_probs=True)) as stream:
        assert [c.log_probs for c in stream] == [(-0.5, -1.25), (-2.0, -0.125, -8.0), ()]
        assert stream.result().log_probs == (-0.5, -1.25, -2.0, -0.125, -8.0)


def test_a_request_that_ran_out_of_time_ends_with_what_there_is(serve, connect):
    record = serve(Send(FIRST), Send(LAST | {"response_index": [1], "finish_reason": ["timeout"]}, final=True))
    with connect(record.url) as client:
        result = client.stream("Why?", Options(timeout_ms=100)).result()
    assert (result.text, result.finish_reason) == (" Die", "timeout")


def test_text_is_credited_to_the_token_that_released_it(serve, connect):
    record = serve(Send(SECOND | {"response_index": [0]}), Send(LAST | {"response_index": [1]}, final=True))
    with connect(record.url) as client:
        result = client.stream("Why?").result()
    assert result.pieces == (Piece("字", TokenSource.RESIDUAL), Piece("!", TokenSource.BONUS))


def test_text_without_a_new_token_has_no_writer(serve, connect):
    flushed = LAST | {"response_index": [0], "text_output": ["\ufffd"]}
    record = serve(Send(flushed, final=True))
    with connect(record.url) as client:
        result = client.stream("Why?").result()
    assert result.pieces == (Piece("\ufffd", None),)


def test_final_flag_on_an_empty_response_ends_the_stream(serve, protocol, connect):
    tail = [Send({}, final=True)] if protocol == "grpc" else []
    record = serve(Send(FIRST), Send(LAST | {"response_index": [1]}), *tail)
    with connect(record.url) as client:
        assert client.stream("Why?").result().text == " Die"


def test_final_flag_on_content_loses_nothing(serve, connect):
    whole = FIRST | {"finish_reason": ["stop"], "cascade_stats": [json.dumps(STATS)]}
    record = serve(Send(whole, final=True))
    with connect(record.url) as client:
        result = client.chat(CHAT)
    assert result.text == " Die"
    assert result.finish_reason == "stop"


def test_generate_asks_for_one_response_and_stream_for_many(serve, protocol, connect):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    with connect(record.url) as client:
        client.generate("Why?")
        client.stream("Why?").result()
    assert "stream" not in record.requests[0]
    assert record.requests[1]["stream"] == [True]
    if protocol == "http":
        assert record.paths == ["/v2/models/ensemble/generate", "/v2/models/ensemble/generate_stream"]


def test_options_travel_as_named_tensors_and_the_rest_is_left_to_the_server(serve, connect):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    options = Options(
        rule="opt:alpha=0.5", draft_length=3, max_tokens=7, temperature=0.5, top_k=9, top_p=0.75, min_p=0.125,
        seed=2**64 - 1, stop=("\n\n", "字"), ignore_eos=True, min_tokens=2, repetition_penalty=1.25,
        presence_penalty=-0.5, frequency_penalty=0.5, bad_words=("ü",), log_probs=True, timeout_ms=900,
        priority=0.25,
    )  # fmt: skip
    with connect(record.url) as client:
        client.chat(CHAT, options)
        client.generate("Why?", Options(token_sources=False))
    full, bare = record.requests
    assert json.loads(full.pop("messages")[0]) == CHAT
    assert full == {
        "deferral_rule": ["opt:alpha=0.5"],
        "draft_length": [3],
        "max_tokens": [7],
        "temperature": [0.5],
        "top_k": [9],
        "top_p": [0.75],
        "min_p": [0.125],
        "seed": [2**64 - 1],
        "min_tokens": [2],
        "repetition_penalty": [1.25],
        "presence_penalty": [-0.5],
        "frequency_penalty": [0.5],
        "bad_words": ["ü"],
        "return_log_probs": [True],
        "timeout_ms": [900],
        "priority": [0.25],
        "stop_words": ["\n\n", "字"],
        "ignore_eos": [True],
        "return_token_sources": [True],
    }
    assert bare == {"text_input": ["Why?"]}


def test_headers_and_model_travel_with_the_request(serve, protocol, connect):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    with connect(record.url, headers={"X-Key": "sesame"}, model="other") as client:
        client.generate("Why?")
    assert {k.lower(): v for k, v in record.headers[0].items()}["x-key"] == "sesame"
    assert record.paths == (["/v2/models/other/generate"] if protocol == "http" else ["other"])


def test_the_key_of_a_restricted_endpoint_goes_where_triton_looks_for_it(serve, protocol, connect):
    record = serve(Send(FIRST | {"finish_reason": ["stop"]}, final=True))
    with connect(record.url, restricted_key=("Infer-Key", "sesame")) as client:
        client.generate("Why?")
    name = "infer-key" if protocol == "http" else "triton-grpc-protocol-infer-key"
    assert {k.lower(): v for k, v in record.headers[0].items()}[name] == "sesame"


def test_leaving_the_block_cancels_on_the_server(serve, connect):
    record = serve(Send(FIRST), Pause(20))
    with connect(record.url) as client:
        with client.stream("Why?") as stream:
            next(stream)
        assert record.client_gone.wait(5)
        assert list(stream) == []


def test_closing_from_another_thread_ends_the_iteration_quietly(serve, connect):
    record = serve(Send(FIRST), Pause(20))
    with connect(record.url) as client:
        stream = client.stream("Why?")
        assert next(stream).text == " Die"
        timer = threading.Timer(0.2, stream.close)
        timer.start()
        assert list(stream) == []
        timer.join()
        assert record.client_gone.wait(5)


def test_a_cancelled_stream_leaves_no_thread_behind(serve):
    record = serve(Send(FIRST), Pause(20))
    with Client(record.url) as client:
        for _ in range(5):
            with client.stream("Why?") as stream:
                next(stream)
        deadline = time.monotonic() + 5
        while _client_threads() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _client_threads() == []


def test_many_streams_run_at_a_time_on_one_client(serve):
    record = serve(Send(FIRST), Pause(1), Send(LAST | {"response_index": [1]}, final=True))
    start = time.monotonic()
    with Client(record.url) as client:
        streams = [client.stream(str(i)) for i in range(8)]
        assert [s.result().text for s in streams] == [" Die"] * 8
    assert time.monotonic() - start < 6
    assert sorted(r["text_input"][0] for r in record.requests) == [str(i) for i in range(8)]


def test_a_stream_that_is_dropped_cancels_when_it_is_collected(serve):
    record = serve(Send(FIRST), Pause(20))
    with Client(record.url) as client:
        stream = client.stream("Why?")
        next(stream)
        del stream
        gc.collect()
        assert record.client_gone.wait(5)


def _client_threads():
    return [t for t in threading.enumerate() if t.name == "spec-cascade-client"]
