"""What a request asks of the cascade, on its way through TensorRT-LLM as a logits processor."""

from __future__ import annotations

import copy
import inspect
import pickle
from types import SimpleNamespace

import pytest
import torch

from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams, attach, other_processors, params_of, unload
from spec_cascade.errors import ConfigError
from tests.trtllm_fake import FakeModel, installed, register

WISHES = CascadeParams(
    tag=7,
    rule="token_v3:alpha=0.5",
    draft_length=3,
    seed=2**64 - 1,
    bad_word_ids=((1, 2), (3,)),
    end_ids=(5, 6),
    log_probs=True,
)


class Biased:
    """A logits processor of a user's own."""

    def __call__(self, req_id, logits, token_ids, stream_ptr, client_id):
        logits += 1


def request_with(processors):
    return SimpleNamespace(py_logits_post_processors=processors)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_it_survives_the_ways_of_a_request(protocol):
    assert pickle.loads(pickle.dumps(WISHES, protocol)) == WISHES
    assert copy.deepcopy([WISHES]) == [WISHES], "requests of n > 1 copy everything that hangs on them"


def test_a_processor_that_asks_for_nothing_is_not_taken_for_none():
    # TensorRT-LLM tests `if sampling_params.logits_processor`.
    assert CascadeParams()


def test_it_is_called_as_the_model_engine_calls_and_changes_nothing():
    # The model engine counts the parameters that `inspect` sees before it calls.
    assert list(inspect.signature(WISHES).parameters) == ["req_id", "logits", "token_ids", "stream_ptr", "client_id"]
    logits = [[[1.0, 2.0]]]
    assert WISHES(3, logits, [[1, 2]], None, None) is None
    assert logits == [[[1.0, 2.0]]]


@pytest.mark.parametrize("processors", [[WISHES], [Biased(), WISHES], [WISHES, Biased()], (WISHES,)])
def test_it_is_told_from_processors_of_the_users_own(processors):
    request = request_with(processors)
    assert params_of(request) is WISHES
    assert [type(p) for p in other_processors(request)] == [Biased] * (len(processors) - 1)


@pytest.mark.parametrize(
    "request_", [request_with(None), request_with([]), request_with([Biased()]), SimpleNamespace()]
)
def test_a_request_that_carries_none_asks_for_nothing(request_):
    assert params_of(request_) is None


def test_unloading_leaves_the_users_processors_and_the_senders_list_alone():
    own = Biased()
    sent = [own, WISHES]
    request = request_with(sent)
    unload(request)
    assert request.py_logits_post_processors == [own]
    assert sent == [own, WISHES]
    alone = request_with([WISHES])
    unload(alone)
    assert alone.py_logits_post_processors is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule", ""),
        ("rule", 3),
        ("draft_length", -1),
        ("seed", -1),
        ("seed", 2**64),
    ],
)
def test_wishes_that_cannot_be_are_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        CascadeParams(**{field: value})
    assert caught.value.field == {"rule": "deferral_rule"}.get(field, field)
    assert caught.value.value == value


@pytest.fixture(params=["s1", "s15", "s2"])
def trtllm(request):
    with installed(request.param, threaded=False) as package:
        yield package


def test_attached_it_reaches_the_request_of_tensorrt_llm(trtllm):
    params = trtllm.SamplingParams(temperature=0.0)
    attach(params, CascadeParams(rule="strict"))
    attach(params, WISHES)
    assert params.logits_processor == [WISHES], "the later wishes take the place of the earlier ones"


def test_it_arrives_at_the_worker_and_leaves_the_output_as_it_was(trtllm):
    register("target", FakeModel(rows=lambda token_ids: torch.eye(8)[list(token_ids)].roll(1, 1), vocab_size=8))
    llm = trtllm.LLM("target", max_batch_size=2, disable_overlap_scheduler=True)
    plain = trtllm.SamplingParams(max_tokens=5, end_id=-1)
    params = trtllm.SamplingParams(max_tokens=5, end_id=-1)
    attach(params, WISHES)
    expected = llm.generate([1, 2, 3], plain).outputs[0].token_ids
    answer = llm.generate_async([1, 2, 3], params)
    engine = llm._executor.engine
    engine.step()
    (request,) = engine.active_requests
    assert params_of(request) == WISHES
    assert params_of(request) is not WISHES, "the worker is another process"
    assert answer.result().outputs[0].token_ids == expected == [4, 5, 6, 7, 0]


def test_a_processor_of_the_users_own_is_refused_beside_drafts(trtllm):
    params = trtllm.SamplingParams(logits_processor=Biased())
    with pytest.raises(ConfigError, match=r"logits_processor .* rows of other requests"):
        attach(params, WISHES)
    batched = trtllm.SamplingParams(apply_batched_logits_processor=True)
    with pytest.raises(ConfigError, match="apply_batched_logits_processor"):
        attach(batched, WISHES)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tag", -1),
        ("draft_length", 1.5),
        ("seed", 2**64),
        ("min_p", None),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", 3),
        ("frequency_penalty", None),
        ("min_tokens", -1),
        ("bad_word_ids", (5,)),
        ("bad_word_ids", ((5, "a"),)),
        ("end_ids", (-1,)),
    ],
)
def test_a_wish_that_cannot_be_is_refused_where_it_is_made(field, value):
    with pytest.raises(ConfigError, match=field):
        CascadeParams(**{field: value})
