"""`CascadeLLM` behind the engine protocol: the fake's LLM API and executor thread, and our sampler in it."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.request import AUTO, FinishReason
from spec_cascade.errors import ConfigError, EngineError, QueueFullError
from spec_cascade.rules import parse_rule
from tests.tiny import VOCAB, tiny_engine
from tests.trtllm_fake import FakeModel, hugging_face
from tests.unit.trtllm.running import DRAFTER, TARGET, WINDOW, K, ask, cut_at, held, running, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.decoding.request import GenerationRequest

SHAPES = ("s15", "s2")

REQUESTS = [
    ask(seed=1),
    ask((1, 2), seed=2, temperature=0.0, rule=parse_rule("strict")),
    ask((9, 9, 9), seed=3, temperature=0.7, draft_length=1, log_probs=True),
    ask((4, 40), seed=4, draft_length=0),
    ask((60, 61, 62, 63), seed=5, top_k=12, max_tokens=7),
    ask((20, 21), seed=6, stop_strings=("ignored",), max_tokens=40),
    ask((30, 31), seed=7, stop_token_ids=(11, 12, 13, 14, 15), max_tokens=60),
    # Parsed by this process, which may name a module.
    ask((32, 33), seed=8, rule=parse_rule("tests.unit.rules.example_rule:GeometricMean:weight=0.5")),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_gives_round_for_round_what_the_embedded_engine_gives(shape: str) -> None:
    embedded = tiny_engine(
        TARGET, DRAFTER, draft_length=K, argmax=True, max_seq_len=WINDOW, rule="token_v3:alpha=0.5", eos=frozenset({3})
    )
    try:
        wanted = [list(generation) for generation in [embedded.submit(request) for request in REQUESTS]]
    finally:
        embedded.close()
    with running(shape, eos=(3,)) as engine:
        found = [list(generation) for generation in [engine.submit(request) for request in REQUESTS]]
        totals = engine.statistics()
    for request, theirs, ours in zip(REQUESTS, wanted, found, strict=True):
        assert [o.token_ids for o in ours] == [o.token_ids for o in theirs], request
        assert [o.sources for o in ours] == [o.sources for o in theirs]
        assert [o.index for o in ours] == list(range(len(ours)))
        assert ours[-1].finish_reason is theirs[-1].finish_reason
        assert [o.log_probs for o in ours] == [pytest.approx(o.log_probs, abs=1e-4) for o in theirs]
        mine, other = ours[-1].statistics, theirs[-1].statistics
        assert mine is not None
        assert other is not None
        told, expected = mine.as_dict(), other.as_dict()
        for timed in ("seconds", "queue_seconds"):
            del told[timed], expected[timed]
        assert told == expected
    assert totals.totals.num_output_tokens == sum(len(tokens(outputs)) for outputs in found)
    assert sum(totals.num_finished.values()) == len(REQUESTS)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_stop_string_ends_a_request_that_tensorrt_llm_would_go_on_with(shape: str) -> None:
    with running(shape) as engine:
        free = tokens(list(engine.submit(ask(seed=1, max_tokens=40))))
    word = (free[10], free[11])
    with running(shape, cut=cut_at(word)) as engine:
        outputs = list(engine.submit(ask(seed=1, max_tokens=40, stop_strings=("x",))))
        assert tokens(outputs) == free[:12]
        assert outputs[-1].finish_reason is FinishReason.STOP
        # Its place is free again.
        assert tokens(list(engine.submit(ask(seed=1, max_tokens=5)))) == free[:5]


def test_a_request_that_is_cancelled_or_late_ends_with_what_it_has() -> None:
    with held(hugging_face(TARGET, max_seq_len=WINDOW)) as (slow, go), running("s15", target=slow) as engine:
        cancelled, late = engine.submit(ask(seed=1)), engine.submit(ask(seed=2, timeout_ms=50))
        cancelled.cancel()
        Event().wait(0.2)
        go.set()
        for generation, reason in ((cancelled, FinishReason.CANCELLED), (late, FinishReason.TIMEOUT)):
            outputs = list(generation)
            assert outputs[-1].finish_reason is reason
            assert outputs[-1].statistics is not None
        assert tokens(list(engine.submit(ask(seed=3)))) != []
        assert engine.statistics().num_finished == {"cancelled": 1, "timeout": 1, "length": 1}


def test_a_full_queue_and_a_closed_engine_refuse() -> None:
    with held(hugging_face(TARGET, max_seq_len=WINDOW)) as (slow, go):
        with running("s15", target=slow, batch=1, queue=2) as engine:
            held_back = [engine.submit(ask(seed=i)) for i in range(3)]
            with pytest.raises(QueueFullError, match="too many requests wait"):
                engine.submit(ask())
            statistics = engine.statistics()
            assert (statistics.num_running, statistics.num_waiting, statistics.num_slots) == (1, 2, 1)
            go.set()
            assert all(list(generation)[-1].finish_reason is FinishReason.LENGTH for generation in held_back)
        with pytest.raises(EngineError, match="closed"):
            engine.submit(ask())
        engine.close()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ask(draft_length=AUTO), "draft_length = 'auto' .*a number"),
        (ask(draft_length=K + 1), "draft_length = 4"),
        (ask(priority=0.9), r"priority = 0\.9 .*order of arrival"),
        (ask(rule=parse_rule("divergence:kind=kl,alpha=0.5")), "argmax drafts"),
        (ask(bad_words=("no",)), "no tokenizer"),
        (ask((VOCAB,)), "vocabulary"),
        (ask(tuple([1] * WINDOW)), "tokens long"),
    ],
)
def test_what_cannot_be_done_is_refused_before_it_is_sent(request_: GenerationRequest, message: str) -> None:
    with running("s15") as engine:
        with pytest.raises(ConfigError, match=message):
            engine.submit(request_)
        assert engine.statistics().num_waiting == 0


def test_a_failure_of_tensorrt_llm_ends_its_requests_with_an_error() -> None:
    calls = []

    def failing(token_ids: Sequence[int]) -> Any:
        calls.append(len(token_ids))
        if len(token_ids) > 8:
            raise RuntimeError("the GPU is on fire")
        return hugging_face(TARGET).rows(token_ids)

    with running("s15", target=FakeModel(rows=failing, vocab_size=VOCAB, max_seq_len=WINDOW)) as engine:
        last = list(engine.submit(ask(seed=1)))[-1]
        assert last.finish_reason is FinishReason.ERROR
        assert last.error is not None
        assert "fire" not in last.error
        assert engine.statistics().num_finished == {"error": 1}


def test_bad_words_are_made_tokens_once_and_for_no_request_without_a_place() -> None:
    asked: list[str] = []

    def ids(word: str) -> list[tuple[int, ...]]:
        asked.append(word)
        return [(token,) for token in range(VOCAB // 2)]

    with (
        held(hugging_face(TARGET, max_seq_len=WINDOW)) as (slow, go),
        running("s15", target=slow, batch=1, queue=1, bad_word_ids=ids) as engine,
    ):
        generations = [engine.submit(ask(seed=i, bad_words=("low",))) for i in range(2)]
        assert asked == ["low"] * 2
        with pytest.raises(QueueFullError):
            engine.submit(ask(bad_words=("low",)))
        assert asked == ["low"] * 2
        go.set()
        for generation in generations:
            assert min(tokens(list(generation))) >= VOCAB // 2
