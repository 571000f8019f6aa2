"""The traps of TensorRT-LLM that lie in what is sampled and when it ends; see `test_traps`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.errors import EngineError
from tests.trtllm_fake import Bench, FakeModel
from tests.trtllm_fake.invented import VOCAB, greedy
from tests.unit.trtllm.played import ANY_TEXT, DRAFTER, MODES, TARGET, K, Played, look, params

if TYPE_CHECKING:
    from collections.abc import Sequence

LAST_SLOT = 7
# Lets through what greedy decoding would not say.
GENEROUS = "chow:alpha=0.9"


# 9. Who says nothing of temperature, top_k and top_p is greedy, and so is who says the least of any.


@pytest.mark.parametrize(
    "asked",
    [{}, {"temperature": 0.0}, {"temperature": 1.0, "top_k": 1}, {"temperature": 1.0, "top_p": 0.0}, {"top_k": 1}],
)
@pytest.mark.parametrize("mode", MODES)
def test_who_is_greedy_for_tensorrt_llm_is_greedy_for_us(shape: str, mode: str, asked: dict[str, Any]) -> None:
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=12, **asked)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 12)
    # And of equals takes the first.
    level = FakeModel(rows=lambda token_ids: torch.zeros(len(token_ids), VOCAB), vocab_size=VOCAB)
    played = Played(level, level, mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=9, **asked)
    played.run()
    assert played.output(request) == [0] * 9


def test_who_names_a_limit_without_a_temperature_is_not_greedy(shape: str) -> None:
    played = Played(TARGET, DRAFTER)
    request = played.ask(ANY_TEXT, params(), max_tokens=12, top_p=1.0)
    warm = played.ask(ANY_TEXT, params(), max_tokens=12, temperature=1.0)
    played.run()
    assert played.output(request) == played.output(warm) != greedy(TARGET, ANY_TEXT, 12)


# 10. TensorRT-LLM's log-probs are those of its own samples.


@pytest.mark.parametrize("mode", MODES)
def test_log_probs_are_of_the_tokens_that_were_emitted(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode, settings={"default_rule": GENEROUS})
    stranger = played.bench.add(ANY_TEXT, max_tokens=12, logprobs=1)
    request = played.ask(ANY_TEXT, params(log_probs=True), max_tokens=12)
    played.run()
    # Who wants TensorRT-LLM's is decided for by TensorRT-LLM.
    assert played.output(stranger) == greedy(TARGET, ANY_TEXT, 12)
    tables = played.bench.results[stranger].log_probs[0]
    assert [max(table, key=lambda token: table[token].logprob) for table in tables] == played.output(stranger)
    assert played.blocks(stranger) == []
    # Who wants ours has them of what the rule let through.
    output = played.output(request)
    assert output != played.output(stranger)
    told = [value for block in played.blocks(request) for value in block.log_probs]
    rows = TARGET.rows([*ANY_TEXT, *output])[len(ANY_TEXT) - 1 : -1].log_softmax(-1)
    torch.testing.assert_close(torch.tensor(told[: len(output)]), rows[torch.arange(len(output)), output])


# 11. Step by step, TensorRT-LLM hands on one row less than there are tokens, and none to greedy requests.


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_every_drafted_token_is_judged_from_the_first_round_on(shape: str, temperature: float | None) -> None:
    stock = Bench(TARGET, DRAFTER, chain=False)
    seen: list[int] = []

    def count(batch: Any) -> None:
        rows = [each.py_draft_logits for each in batch.generation_requests]
        seen.extend(0 if row is None else len(row) for row in rows)

    look(stock.executor, "_forward_step", count)
    stock.add(ANY_TEXT, max_tokens=30, temperature=temperature)
    stock.run()
    assert max(seen) < K
    # That request is a prompt of which no chunk is the last, in its first round.
    played = Played(TARGET, DRAFTER, "sampled")
    chunks: list[bool] = []

    def spy(batch: Any, *_: Any) -> None:
        chunks.extend(each.is_last_context_chunk for each in batch.context_requests if each.py_is_draft)

    look(played.sampler, "sample_async", spy)
    request = played.ask(ANY_TEXT, params(), max_tokens=30, temperature=temperature)
    played.run()
    assert chunks == [False]
    full = played.drafted(request)[1:-2]
    assert full == [K] * len(full)
    assert len(full) > 5


def test_only_for_strangers_do_drafted_rows_go_by_way_of_the_host(shape: str) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    gathered: dict[int, set[bool]] = {}

    def spy(batch: Any, *_: Any) -> None:
        for each in batch.all_requests():
            if each.py_is_draft:
                gathered.setdefault(each.py_request_id, set()).add(each.py_return_generation_logits)

    look(played.sampler, "sample_async", spy)
    request = played.ask(ANY_TEXT, params(), max_tokens=12, temperature=1.0)
    stranger = played.bench.add(ANY_TEXT, max_tokens=12, temperature=1.0, logprobs=1)
    played.run()
    assert gathered == {request: {False}, stranger: {True}}


# 12. With drafts TensorRT-LLM takes biases and generated rows from other requests' rows.


@pytest.mark.parametrize("order", [(True, False), (False, True), (True, True), (False, True, True, False)])
@pytest.mark.parametrize("mode", MODES)
def test_a_bias_reaches_its_own_rows(shape: str, mode: str, order: Sequence[bool]) -> None:
    bias = torch.zeros(1, VOCAB)
    bias[0, 11] = 7.0
    biased = FakeModel(rows=lambda token_ids: TARGET.rows(token_ids) + bias, vocab_size=VOCAB)
    # One whose drafts for the biased stand: it takes the bias in every row of a block to say what follows them.
    drafter = FakeModel(rows=lambda token_ids: DRAFTER.rows(token_ids) + bias, vocab_size=VOCAB)
    expected = {i: greedy(biased if has else TARGET, (4, i), 12) for i, has in enumerate(order, 1)}

    def serve(bench: Bench) -> dict[int, list[int]]:
        for i, has in enumerate(order, 1):
            bench.add((4, i), max_tokens=12, embedding_bias=bias if has else None)
        bench.run()
        return {i: bench.output(i) for i in expected}

    # TensorRT-LLM adds it to somebody else's, or fails for everybody.
    assert serve(Bench(TARGET, drafter, chain=mode == "argmax")) != expected
    played = Played(TARGET, drafter, mode)
    assert serve(played.bench) == expected


@pytest.mark.parametrize("mode", MODES)
def test_who_wants_rows_is_not_decided_for(shape: str, mode: str) -> None:
    from tensorrt_llm.bindings.executor import OutputConfig

    played = Played(TARGET, DRAFTER, mode, settings={"default_rule": GENEROUS})
    wants = {"attributes": {"output_config": OutputConfig(return_generation_logits=True)}}
    request = played.bench.add(ANY_TEXT, max_tokens=12, **wants)
    other = played.ask((4, 5), params(), max_tokens=12)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 12)
    assert played.blocks(request) == []
    assert played.blocks(other) != []


# Further ones.


def test_a_prompts_stop_words_are_looked_for_in_its_own_row(shape: str) -> None:
    expected = greedy(TARGET, ANY_TEXT, 6)

    def serve(bench: Bench, add: Any) -> tuple[list[int], dict[int, list[str]], list[int]]:
        missed = add(ANY_TEXT, max_tokens=6, stop_words=[[expected[0]]])
        bench.step()
        # What an earlier owner left in the last row of a slot.
        bench.sampler.store.new_tokens[K, LAST_SLOT - 1] = 20
        ended = add((4, 5), max_tokens=2, stop_words=[[20]])
        bench.run()
        return bench.output(missed), bench.reasons, bench.output(ended)

    assert 20 not in greedy(TARGET, (4, 5), 2)
    stock = Bench(TARGET, DRAFTER)
    output, reasons, other = serve(stock, stock.add)
    assert len(output) > 1
    assert reasons[2] == ["STOP_WORDS"]
    assert len(other) == 1
    played = Played(TARGET, DRAFTER)
    output, reasons, other = serve(played.bench, lambda prompt, **asked: played.ask(prompt, params(), **asked))
    assert output == expected[:1]
    assert reasons == {1: ["STOP_WORDS"], 2: ["LENGTH"]}
    assert other == greedy(TARGET, (4, 5), 2)


@pytest.mark.parametrize("end_id", [None, -1, 20])
@pytest.mark.parametrize("mode", MODES)
def test_a_least_length_bans_what_ends_a_request_and_nothing_else(shape: str, mode: str, end_id: int | None) -> None:
    asked = {"max_tokens": 12, "temperature": 1.0, "end_id": end_id}
    if end_id is None:
        # Without an end token TensorRT-LLM bans all of them, and fails for everybody.
        stock = Bench(TARGET, DRAFTER, chain=mode == "argmax")
        stock.add(ANY_TEXT, min_tokens=30, **asked)
        stock.step()
        assert "probability tensor" in stock.errors[1]
    played = Played(TARGET, DRAFTER, mode)
    prompts = [(i, 5) for i in range(6)]
    ids = [played.ask(prompt, params(), min_tokens=12, **asked) for prompt in prompts]
    played.run()
    assert [len(played.output(request)) for request in ids] == [12] * 6
    free = Played(TARGET, DRAFTER, mode)
    others = [free.ask(prompt, params(), **asked) for prompt in prompts]
    free.run()
    if end_id == 20:
        assert min(len(free.output(other)) for other in others) < 12
        assert not any(20 in played.output(request) for request in ids)
    else:
        assert [played.output(request) for request in ids] == [free.output(other) for other in others]


def test_tokens_that_a_variable_forces_are_refused(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS", "2")
    stock = Bench(TARGET, DRAFTER)
    stock.add(ANY_TEXT, max_tokens=12)
    with pytest.raises(AssertionError, match="KV cache"):
        stock.run()
    with pytest.raises(EngineError, match="TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"):
        Played(TARGET, DRAFTER)


@pytest.mark.parametrize("mode", MODES)
def test_no_draw_of_ours_comes_from_the_generator_of_all(shape: str, mode: str) -> None:
    def output(seed: int) -> list[int]:
        played = Played(TARGET, DRAFTER, mode)
        played.sampler._global_seed = seed
        request = played.ask(ANY_TEXT, params(), max_tokens=20, temperature=1.0)
        played.run()
        # Nor does TensorRT-LLM draw what is thrown away, where it can be told so.
        assert shape == "s1" or played.sampler._generator is None
        return played.output(request)

    assert output(1) == output(2)


@pytest.mark.parametrize("mode", MODES)
def test_further_sequences_of_a_prompt_have_what_their_first_one_has_each_for_itself(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    several = played.ask(ANY_TEXT, params(), max_tokens=9, temperature=1.0, num_return_sequences=3)
    played.bench.step(2)
    first = played.bench.request(several)
    # A copy of everything under ``py_`` can be made of a request at any time.
    first.create_child_request(99)
    played.run()
    outputs = played.bench.tokens[several]
    assert [len(tokens) for tokens in outputs] == [9, 9, 9]
    assert len(set(map(tuple, outputs))) == 3
    alone = Played(TARGET, DRAFTER, mode)
    one = alone.ask(ANY_TEXT, params(), max_tokens=9, temperature=1.0)
    alone.run()
    assert outputs[0] == alone.output(one)
