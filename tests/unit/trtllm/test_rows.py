"""Whose rows are judged, how many of them, and what becomes of those that say nothing, with our sampler in the loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.engines.tensorrt_llm import followed
from tests.trtllm_fake import Bench, FakeModel
from tests.trtllm_fake.invented import VOCAB, greedy
from tests.unit.trtllm.played import (
    ANY_TEXT,
    DRAFTER,
    MODES,
    TARGET,
    WARM,
    K,
    Played,
    alone,
    params,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor


# What is left to TensorRT-LLM.


def somebody_elses(name: str) -> dict[str, Any]:
    """What a request asks that we do not offer."""
    from tensorrt_llm.bindings.executor import OutputConfig

    return {
        "log-probs": {"logprobs": 2},
        "bias": {"embedding_bias": torch.linspace(-1, 1, VOCAB).unsqueeze(0)},
        "processor": {"carrier": lambda *_: None},
        "grammar": {"attributes": {"guided_decoding_params": object()}},
        "generation logits": {"attributes": {"output_config": OutputConfig(return_generation_logits=True)}},
    }[name]


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["log-probs", "bias", "processor", "grammar", "generation logits"])
def test_what_we_do_not_offer_is_decoded_as_if_we_were_not_there(
    newest: str, mode: str, what: str, temperature: float | None
) -> None:
    def serve(bench: Bench) -> tuple[Any, Any]:
        # With drafts TensorRT-LLM itself stands one bias, of the first request; see the traps.
        for prompt in ((1, 2, 3), (4, 5))[: 1 if what == "bias" else 2]:
            bench.add(prompt, max_tokens=12, temperature=temperature, **somebody_elses(what))
        bench.run()
        assert not bench.errors
        return dict(bench.tokens), dict(bench.chunks)

    played = Played(TARGET, DRAFTER, mode)
    judged: list[Any] = []
    played.watch(lambda turns: judged.extend(turns))
    assert serve(played.bench) == serve(Bench(TARGET, DRAFTER, chain=mode == "argmax"))
    assert judged == []


def test_dummies_drafts_and_beams_are_not_ours(shape: str) -> None:
    played = Played(TARGET, DRAFTER)
    request = played.ask(ANY_TEXT, params(), max_tokens=9)
    played.bench.step()
    live = played.bench.request(request)
    assert followed.is_ours(live)
    for name, value in (("is_cuda_graph_dummy", True), ("is_attention_dp_dummy", True), ("py_is_draft", True)):
        before = getattr(live, name)
        setattr(live, name, value)
        assert not followed.is_ours(live)
        setattr(live, name, before)
    live.sampling_config.beam_width = 2
    assert not followed.is_ours(live)


def test_logits_of_a_prompt_come_back_as_the_target_gave_them(shape: str) -> None:
    played = Played(TARGET, DRAFTER)
    other = played.ask((4, 5), params(), max_tokens=12)
    played.bench.step(2)
    carried = params(repetition_penalty=1.5)
    request = played.ask([1, 2, 3, 4, 5], carried, max_tokens=12, return_context_logits=True)
    played.run()
    assert played.output(other) == greedy(TARGET, (4, 5), 12)
    assert played.output(request) == alone("argmax", [1, 2, 3, 4, 5], carried, max_tokens=12)
    torch.testing.assert_close(played.bench.results[request].context_logits, TARGET.rows([1, 2, 3, 4, 5]))


# Rows of which no distribution can be made.


def spoilt(model: FakeModel, first: int, length: int, value: float = torch.nan) -> FakeModel:
    """The model, which gives one row of one value behind a text of this length that begins so."""

    def rows(token_ids: Sequence[int]) -> Tensor:
        own = model.rows(token_ids).clone()
        if token_ids[0] == first and len(token_ids) >= length:
            own[length - 1] = value
        return own

    return FakeModel(rows=rows, vocab_size=model.vocab_size, max_seq_len=model.max_seq_len)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("length", [3, 6])
def test_a_row_of_the_targets_that_holds_nothing_ends_its_request_alone(
    shape: str, mode: str, temperature: float | None, length: int, value: float
) -> None:
    played = Played(spoilt(TARGET, 1, length, value), DRAFTER, mode)
    ended = played.ask(ANY_TEXT, params(), max_tokens=12, temperature=temperature)
    others = [played.ask((4, i), params(), max_tokens=12, temperature=temperature) for i in range(3)]
    played.run()
    assert played.bench.reasons[ended] == ["CANCELLED"]
    # Nothing is emitted of what such a row says.
    assert len(played.output(ended)) == max(0, length - 5)
    assert played.output(ended) == [token for block in played.blocks(ended) for token in block.token_ids]
    last = played.reports[ended][-1]
    assert last.block is None
    assert last.error == "the model's logits make no distribution"
    assert last.position == len(played.output(ended))
    for i, other in enumerate(others):
        assert played.output(other) == alone(mode, (4, i), params(), max_tokens=12, temperature=temperature)


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_a_row_of_the_drafters_that_holds_nothing_costs_a_draft(
    shape: str, mode: str, temperature: float | None
) -> None:
    asked = {"max_tokens": 12, "temperature": temperature}
    played = Played(TARGET, spoilt(DRAFTER, 1, 6), mode)
    request = played.ask(ANY_TEXT, params(), **asked)
    other = played.ask((4, 5), params(), **asked)
    played.run()
    assert 0 in played.drafted(request)[1:4]
    assert K in played.drafted(request)
    if temperature is None:
        assert played.output(request) == greedy(TARGET, ANY_TEXT, 12)
    assert len(played.output(request)) == 12
    assert played.output(other) == alone(mode, (4, 5), params(), **asked)


@pytest.mark.parametrize("mode", MODES)
def test_a_row_that_nobody_judges_may_hold_anything(later: str, mode: str) -> None:
    # Before 1.2.0rc8 TensorRT-LLM cannot be told to leave its own samples alone.
    played = Played(spoilt(TARGET, 1, len(ANY_TEXT) + 1 + K), DRAFTER, mode)
    # One drafted token of three is judged, and the row behind the third is the spoilt one.
    request = played.ask(ANY_TEXT, params(draft_length=1), max_tokens=2, **WARM)
    other = played.ask((4, 5), params(), max_tokens=12, **WARM)
    played.run()
    assert len(played.output(request)) == 2
    assert len(played.output(other)) == 12


# Vocabularies.


def padded(model: FakeModel, width: int, loud: Callable[[int], bool] = lambda _: True) -> FakeModel:
    """The model with columns that no token has, which say the most behind some tokens."""

    def rows(token_ids: Sequence[int]) -> Tensor:
        known = [min(token, VOCAB - 1) for token in token_ids]
        columns = torch.zeros(len(known), width - VOCAB)
        columns[:, -1] = torch.tensor([40.0 if loud(token) else -1.0 for token in known])
        return torch.cat((model.rows(known), columns), 1)

    return FakeModel(rows=rows, vocab_size=width, max_seq_len=model.max_seq_len)


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_what_is_no_token_is_never_said(shape: str, mode: str, temperature: float | None) -> None:
    asked = {"max_tokens": 20, "temperature": temperature}
    plain = Played(TARGET, DRAFTER, mode)
    wanted = plain.ask(ANY_TEXT, params(), **asked)
    plain.run()
    played = Played(padded(TARGET, 28), padded(DRAFTER, 26, lambda _: False), mode, settings={"vocab_size": VOCAB})
    request = played.ask(ANY_TEXT, params(), **asked)
    played.run()
    assert played.output(request) == plain.output(wanted)
    assert played.sources(request) == plain.sources(wanted)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_an_argmax_in_the_padding_ends_a_draft(shape: str, temperature: float | None) -> None:
    # Its row is loud in a column that no token has, and the chain loop goes on behind it.
    played = Played(
        padded(TARGET, 32), padded(DRAFTER, 32, lambda token: token % 3 == 0), settings={"vocab_size": VOCAB}
    )
    request = played.ask(ANY_TEXT, params(), max_tokens=20, temperature=temperature)
    played.run()
    assert max(played.output(request)) < VOCAB
    assert {0, K} < set(played.drafted(request)[1:-2])
    if temperature is None:
        assert played.output(request) == greedy(TARGET, ANY_TEXT, 20)


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_a_drafter_of_fewer_columns_keeps_nobody_from_the_others(
    shape: str, mode: str, temperature: float | None
) -> None:
    def narrow(token_ids: Sequence[int]) -> Tensor:
        return DRAFTER.rows(token_ids)[:, :12]

    played = Played(TARGET, FakeModel(rows=narrow, vocab_size=12), mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=30, temperature=temperature)
    played.run()
    assert sum(block.accepted for block in played.blocks(request)) > 2
    drafted = [block for block in played.blocks(request) if block.drafted]
    assert max(token for block in drafted for token in block.token_ids) >= 12
    if temperature is None:
        assert played.output(request) == greedy(TARGET, ANY_TEXT, 30)


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_drafter_of_some_tokens_is_judged_on_what_it_means(shape: str, temperature: float | None) -> None:
    known = torch.tensor([0, 1, 2, 3, 5, 8, 11, 14, 15, 18, 19, 20, 22, 23])

    def some(token_ids: Sequence[int]) -> Tensor:
        return DRAFTER.rows(token_ids)[:, known]

    drafter = FakeModel(rows=some, vocab_size=len(known), d2t=known - torch.arange(len(known)))
    played = Played(TARGET, drafter)
    request = played.ask(ANY_TEXT, params(), max_tokens=30, temperature=temperature)
    played.run()
    assert sum(block.accepted for block in played.blocks(request)) > 5
    if temperature is None:
        assert played.output(request) == greedy(TARGET, ANY_TEXT, 30)


# Lengths of drafts.


@pytest.mark.parametrize("engine", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES)
def test_as_many_drafts_are_judged_as_the_request_wants_and_the_engine_has(newest: str, mode: str, engine: int) -> None:
    played = Played(TARGET, TARGET, mode, draft_length=engine)
    for wanted in (None, 0, 1, 3, 99):
        asked = played.ask(ANY_TEXT, params(draft_length=wanted), max_tokens=20)
        played.run()
        assert played.output(asked) == greedy(TARGET, ANY_TEXT, 20)
        most = engine if wanted is None else min(wanted, engine)
        assert max(played.drafted(asked)) == most
        assert played.drafted(asked)[1] == most


def test_the_engine_may_be_told_to_judge_fewer_than_are_drafted(newest: str) -> None:
    played = Played(TARGET, TARGET, draft_length=4, settings={"draft_length": 2})
    request = played.ask(ANY_TEXT, params(), max_tokens=20)
    greater = played.ask(ANY_TEXT, params(draft_length=4), max_tokens=20)
    played.run()
    assert max(played.drafted(request)) == max(played.drafted(greater)) == 2


def test_a_rule_that_asks_no_drafter_is_given_no_drafts(newest: str) -> None:
    played = Played(TARGET, TARGET, settings={"default_rule": "target_only"})
    request = played.ask(ANY_TEXT, params(), max_tokens=6)
    played.run()
    assert set(played.drafted(request)) == {0}
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 6)
