"""Plain `/infer` and unary gRPC, as stock clients and load tools speak them: one request, one response."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from spec_cascade.serving.model_configs import ENSEMBLE_UNARY
from tests.triton.clients import TIMEOUT, grpc_stream, post, text_of
from tests.triton.conftest import eventually, processes_of_group
from tests.unit.serving.scripted import ECHO, FAIL, HUSHED, QUIET, RAISE, SLOW

if TYPE_CHECKING:
    from spec_cascade.serving.server import TritonServer
    from tests.triton.conftest import ScriptedServer

MODEL = "ensemble_unary"
PROMPT = "the cat sat on 😀"
PROTOCOLS = ["http", "grpc"]
# The names, types and shapes that TensorRT-LLM's own clients send.
USUAL: dict[str, tuple[str, Any]] = {
    "text_input": ("BYTES", [[PROMPT.encode()]]),
    "max_tokens": ("INT32", [[24]]),
    "bad_words": ("BYTES", [[b""]]),
    "stop_words": ("BYTES", [[b""]]),
    "stream": ("BOOL", [[False]]),
    "beam_width": ("INT32", [[1]]),
    "temperature": ("FP32", [[0.0]]),
    "pad_id": ("INT32", [[2]]),
}
NUMPY = {"BYTES": np.object_, "INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_, "UINT64": np.uint64}
MOST_RESIDENT_BYTES = 150 * 2**20


def inputs(module: Any, values: dict[str, tuple[str, Any]]) -> list[Any]:
    made = []
    for name, (datatype, elements) in values.items():
        array = np.array(elements, dtype=NUMPY[datatype])
        made.append(module.InferInput(name, list(array.shape), datatype))
        made[-1].set_data_from_numpy(array)
    return made


def infer(server: TritonServer, protocol: str, values: dict[str, tuple[str, Any]], **options: Any) -> Any:
    """What a stock client does."""
    if protocol == "http":
        url = server.http_url.removeprefix("http://")
        with httpclient.InferenceServerClient(url, network_timeout=TIMEOUT) as client:
            return client.infer(MODEL, inputs(httpclient, values), **options)
    with grpcclient.InferenceServerClient(server.grpc_url.removeprefix("grpc://")) as client:
        return client.infer(MODEL, inputs(grpcclient, values), **options)


def text(result: Any) -> str:
    decoded: str = result.as_numpy("text_output")[0].decode()
    return decoded


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_usual_tensors_of_tensorrt_llm_get_the_text_of_generate(
    server: TritonServer, protocol: str, stream: bool
) -> None:
    whole = post(server, {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0}).json
    result = infer(server, protocol, {**USUAL, "stream": ("BOOL", [[stream]])})
    assert text(result) == whole["text_output"]
    assert result.as_numpy("token_ids").tolist() == whole["token_ids"]
    assert result.as_numpy("finish_reason").tolist() == [whole["finish_reason"].encode()]
    assert json.loads(result.as_numpy("cascade_stats")[0])["rule"] == "strict"


def test_the_same_tensors_stream_from_the_ensemble(server: TritonServer) -> None:
    values = {name: elements[0][0] for name, (_, elements) in USUAL.items()}
    responses = list(grpc_stream(server, {**values, "stream": True}))
    assert len(responses) > 1
    assert text_of(responses) == text(infer(server, "grpc", USUAL))


def test_only_the_outputs_that_are_asked_for_come(server: TritonServer) -> None:
    wanted = [grpcclient.InferRequestedOutput("text_output")]
    result = infer(server, "grpc", USUAL, outputs=wanted)
    assert [output.name for output in result.get_response().outputs] == ["text_output"]


def test_parameters_stand_for_tensors_here_too(server: TritonServer) -> None:
    parameters = {"max_tokens": 24, "temperature": 0.0, "top_p": 1, "stream": True}
    result = infer(server, "grpc", {"text_input": USUAL["text_input"]}, parameters=parameters)
    assert text(result) == text(infer(server, "grpc", USUAL))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tritons_own_timeout_and_priority_have_no_effect(server: TritonServer, protocol: str) -> None:
    assert text(infer(server, protocol, USUAL, timeout=1, priority=1)) == text(infer(server, protocol, USUAL))


def test_generate_on_it_is_one_response_too(server: TritonServer) -> None:
    body = {"text_input": PROMPT, "max_tokens": 24, "temperature": 0.0, "stream": True}
    assert post(server, body, MODEL).json["text_output"] == text(infer(server, "http", USUAL))


def test_more_requests_than_instances_are_all_answered(server: TritonServer) -> None:
    bodies = [{"text_input": f"{PROMPT} {i}", "max_tokens": 5 + i, "temperature": 0.0} for i in range(12)]
    alone = [post(server, body).json["text_output"] for body in bodies]

    def ask(i: int) -> str:
        prompt = ("BYTES", [[f"{PROMPT} {i}".encode()]])
        return text(
            infer(server, PROTOCOLS[i % 2], {**USUAL, "text_input": prompt, "max_tokens": ("INT32", [[5 + i]])})
        )

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone


def test_as_many_requests_as_instances_run_at_once(scripted_server: ScriptedServer) -> None:
    values = {**USUAL, "seed": ("UINT64", [[ECHO]]), "max_tokens": ("INT32", [[20]])}
    with ThreadPoolExecutor(ENSEMBLE_UNARY.count) as pool:
        with scripted_server.held():
            answers = [pool.submit(infer, scripted_server.server, "http", values) for _ in range(ENSEMBLE_UNARY.count)]
            eventually(lambda: scripted_server.counts()["live"] == ENSEMBLE_UNARY.count)
        assert {len(answer.result().as_numpy("token_ids")) for answer in answers} == {20}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("temperature", ("FP32", [[-1.0]]), "temperature = -1.0 is not allowed"),
        ("text_input", ("BYTES", [[b"\xff"]]), "text_input = .*valid UTF-8"),
        ("beam_width", ("INT32", [[4]]), "beam_width = 4 .*does not implement"),
        ("deferral_rule", ("BYTES", [[b"strickt"]]), "did you mean 'strict'"),
    ],
)
def test_a_bad_value_is_an_invalid_argument_that_names_its_field(
    server: TritonServer, protocol: str, name: str, value: tuple[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        infer(server, protocol, {**USUAL, name: value})
    assert caught.value.status() == ("400" if protocol == "http" else "StatusCode.INVALID_ARGUMENT")


def test_an_unknown_parameter_is_refused_here_too(server: TritonServer) -> None:
    with pytest.raises(InferenceServerException, match=r"tempature .*did you mean 'temperature'"):
        infer(server, "grpc", USUAL, parameters={"tempature": 1})
    with pytest.raises(InferenceServerException, match=r"stream = 1 .*BOOL"):
        infer(server, "grpc", {"text_input": USUAL["text_input"]}, parameters={"stream": 1})


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("seed", "message"), [(FAIL, "the GPU is on fire"), (RAISE, "the server failed; see its log")])
def test_a_failure_keeps_its_status(scripted_server: ScriptedServer, seed: int, message: str, protocol: str) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        infer(scripted_server.server, protocol, {**USUAL, "seed": ("UINT64", [[seed]])})
    assert caught.value.status() == {"http": "500", "grpc": "StatusCode.INTERNAL"}[protocol]
    assert "secret" not in str(caught.value)


def test_a_full_engine_is_unavailable(scripted_server: ScriptedServer) -> None:
    silent = {"text_input": "abc", "seed": HUSHED, "max_tokens": 99, "stream": True}
    streams = [grpc_stream(scripted_server.server, silent) for _ in range(6)]
    for stream in streams:
        next(stream)
    try:
        for protocol, status in (("http", "503"), ("grpc", "StatusCode.UNAVAILABLE")):
            with pytest.raises(InferenceServerException, match="UNAVAILABLE: too many requests wait") as caught:
                infer(scripted_server.server, protocol, USUAL)
            assert caught.value.status() == status
    finally:
        for stream in streams:
            stream.close()
    eventually(lambda: scripted_server.counts()["live"] == 0)


@pytest.mark.parametrize("seed", [QUIET, SLOW])
def test_a_cancelled_request_frees_its_place(scripted_server: ScriptedServer, seed: int) -> None:
    before = scripted_server.counts()["cancelled"]
    values = {**USUAL, "seed": ("UINT64", [[seed]]), "max_tokens": ("INT32", [[500]])}
    answered, answers = Event(), []
    url = scripted_server.server.grpc_url.removeprefix("grpc://")

    def take(result: Any, error: Any) -> None:
        answers.append(error)
        answered.set()

    with grpcclient.InferenceServerClient(url) as client:
        call = client.async_infer(MODEL, inputs(grpcclient, values), take)
        eventually(lambda: scripted_server.counts()["live"] == 1)
        time.sleep(0.2)
        call.cancel()
        eventually(lambda: scripted_server.counts()["live"] == 0)
        assert answered.wait(TIMEOUT)
    assert answers[0].status() == "StatusCode.CANCELLED"
    assert scripted_server.counts()["cancelled"] == before + 1
    # Its instance serves the next one.
    for _ in range(ENSEMBLE_UNARY.count + 1):
        assert infer(scripted_server.server, "grpc", {**USUAL, "seed": ("UINT64", [[ECHO]])}) is not None


def test_its_processes_are_small(server: TritonServer) -> None:
    assert server.pid is not None
    sizes = []
    for pid in processes_of_group(server.pid):
        process = psutil.Process(pid)
        if any(f"/{MODEL}/" in argument for argument in process.cmdline()):
            loaded = {mapping.path for mapping in process.memory_maps()}
            assert not any("libtorch" in path for path in loaded)
            sizes.append(process.memory_info().rss)
    assert len(sizes) == ENSEMBLE_UNARY.count
    assert max(sizes) < MOST_RESIDENT_BYTES, sizes
