"""The traps of TensorRT-LLM, each sprung under our sampler: what protects us from it is what these tests stand for.

Where it can be shown in the same round, the stock sampler falls into the trap first.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from spec_cascade.errors import EngineError
from tests.trtllm_fake import SHAPES, Bench, FakeModel
from tests.trtllm_fake.invented import VOCAB, constant, greedy, invented, wavering
from tests.unit.trtllm.played import MODES, Played, look
from tests.unit.trtllm.playing import playing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from spec_cascade.engines.tensorrt_llm.decision import Turn

K = 3
LAST_SLOT = 7
TARGET = invented()
DRAFTER = wavering(TARGET)
LOSSY = "chow:alpha=0.9"
ANY_TEXT = [1, 2, 3]


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> Iterator[str]:
    with playing(request.param):
        yield request.param


def params(**asked: Any) -> CascadeParams:
    return CascadeParams(**{"seed": 5, **asked})


def follows(prompt: Sequence[int], **asked: Any) -> list[int]:
    """What a request says that is served alone, without drafts."""
    played = Played(TARGET, DRAFTER)
    request = played.ask(prompt, params(draft_length=0, **asked.pop("params", {})), **asked)
    played.run()
    return played.output(request)


# 1. Drafted tokens are tensors of no dimension, integers, or padding.


@pytest.mark.parametrize("mode", MODES)
def test_tokens_are_integers_wherever_they_come_from(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    judged: list[Any] = []
    played.watch(lambda turns: judged.extend(token for turn in turns for token in turn.draft.token_ids))
    committed: list[Any] = []
    found: list[type] = []
    request = played.ask(ANY_TEXT, params(rule=LOSSY), max_tokens=20)

    def spy(batch: Any) -> None:
        for each in batch.generation_requests:
            found.extend(map(type, each.py_draft_tokens))
        for each in batch.all_requests():
            if "add_new_token" not in vars(each):
                look(each, "add_new_token", lambda token, _: committed.append(token))

    look(played.bench.executor, "_forward_step", spy)
    played.run()
    assert (torch.Tensor if mode == "argmax" else int) in found
    assert len(judged) > K
    assert {type(token) for token in judged} == {int}
    assert {type(token) for token in committed} == {int}
    assert committed == played.output(request)


# 2. Rows of an earlier round stay on a request that nothing was drafted for.


def test_who_was_not_drafted_for_is_judged_by_no_stale_rows(shape: str) -> None:
    short = wavering(TARGET, max_seq_len=9)
    played = Played(TARGET, short)
    zeros: list[bool] = []
    stale: list[bool] = []

    def spy(batch: Any) -> None:
        for each in batch.generation_requests:
            zeros.append(all(type(token) is int for token in each.py_draft_tokens))
            stale.append(each.py_draft_logits is not None)

    look(played.bench.executor, "_forward_step", spy)
    request = played.ask(ANY_TEXT, params(rule=LOSSY), max_tokens=20)
    played.run()
    assert zeros.count(True) > 2
    # Where nothing was drafted there are no rows, and nothing is judged.
    assert stale == [not undrafted for undrafted in zeros]
    assert [n > 0 for n in played.drafted(request)[1:]] == stale


# 3. The loop hands over no resource manager, and commits without one where rounds overlap.


@pytest.mark.parametrize("mode", MODES)
def test_no_resource_manager_is_needed(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    counts: list[int] = []
    look(played.sampler, "sample_async", lambda *args: counts.append(len(args)))
    played.bench.executor._update_requests = lambda state, _: played.sampler.update_requests(state)
    request = played.ask(ANY_TEXT, max_tokens=9)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 9)
    assert set(counts) == ({3} if mode == "argmax" else {3, 4})
    given = inspect.signature(type(played.sampler).update_requests).parameters["resource_manager"]
    assert given.default is None


# 4. The drafter's batches are one object that is filled anew; places in it mean nothing, ids do.


def test_drafts_are_known_by_their_requests_id_whatever_place_they_have(shape: str) -> None:
    target = invented(max_seq_len=12)

    def served(*prompts: Sequence[int]) -> Played:
        played = Played(target, wavering(target), "sampled")
        for prompt in prompts:
            played.ask(prompt, params(), max_tokens=8, temperature=1.0)
        return played

    played = served(range(1, 11), (4, 5), (4, 6))
    sizes: list[int] = []

    def spy(batch: Any, *_: Any) -> None:
        if batch.all_requests()[0].py_is_draft:
            sizes.append(batch.batch_size)

    look(played.sampler, "sample_async", spy)
    played.watch(lambda turns: [check(turn) for turn in turns])

    def check(turn: Turn) -> None:
        judged, fed = turn.draft.token_ids, turn.rows.request.py_draft_tokens
        assert list(judged) == [int(token) for token in fed[: len(judged)]]

    played.run()
    # The first one's window is full after a step: in the middle of a round the others move up.
    assert sizes[:K] == [3, 3, 2]
    assert len(played.output(1)) == 2
    for number, prompt in enumerate([(4, 5), (4, 6)], 2):
        alone = served(prompt)
        alone.run()
        assert played.output(number) == alone.output(1)
        assert played.drafted(number)[1] == K


def test_rows_that_outlive_a_forward_are_copies(shape: str) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    checked: list[int] = []

    def spy(turns: Sequence[Turn]) -> None:
        for turn in turns:
            text = turn.rows.request.get_tokens(0)
            for j, row in enumerate(() if turn.draft.logits is None else turn.draft.logits):
                assert torch.equal(row, DRAFTER.rows([*text, *turn.draft.token_ids[:j]])[-1])
                checked.append(j)

    played.watch(spy)
    for i in range(3):
        played.ask((4, i), params(), max_tokens=9, temperature=1.0)
    played.run()
    # All K of them: TensorRT-LLM itself hands on one row too few, or none.
    assert max(checked) == K - 1


# 5. What one request does wrong is everybody's error, and an error in drafting is nobody's.


@pytest.mark.parametrize("mode", MODES)
def test_a_request_that_cannot_be_followed_fails_nobody(
    shape: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    played = Played(TARGET, DRAFTER, mode)
    with caplog.at_level(logging.ERROR, "spec_cascade"):
        wrong = played.ask(ANY_TEXT, params(rule="no_such_rule"), max_tokens=12)
        right = played.ask((4, 5), params(), max_tokens=12)
        played.run()
    assert played.output(right) == greedy(TARGET, (4, 5), 12)
    assert played.output(wrong) == greedy(TARGET, ANY_TEXT, 12)
    assert played.blocks(wrong) == []
    # Said once, and not in each of its rounds.
    assert sum("no_such_rule" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_error_in_drafting_costs_drafts_and_nothing_else(shape: str, call: int) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    request = played.ask(ANY_TEXT, params(), max_tokens=14)
    played.bench.step(2)
    draw, calls = played.sampler._drafts.draw, itertools.count(1)

    def draw_and_fail(*args: Any) -> dict[int, int]:
        drawn: dict[int, int] = draw(*args)
        if next(calls) == call:
            raise ZeroDivisionError("swallowed")
        return drawn

    played.sampler._drafts.draw = draw_and_fail
    played.run()
    assert next(calls) > K
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 14)
    # Of the tokens that were drawn before it only those that the target was given are judged.
    assert played.drafted(request)[2] == max(0, call - 2)


# 6. Slots of the drafter's requests are counted anew: what the sampler keeps for a slot is somebody else's.


def fed(bench: Bench) -> list[list[int]]:
    """A list that grows: what each forward of the target is given behind a newest token."""
    seen: list[list[int]] = []

    def spy(batch: Any) -> None:
        seen.extend([int(token) for token in each.py_draft_tokens] for each in batch.generation_requests)

    look(bench.executor, "_forward_step", spy)
    return seen


@pytest.mark.parametrize("stops", ["end token", "stop word"])
def test_a_draft_ends_with_its_block_whatever_is_known_of_its_slot(shape: str, stops: str) -> None:
    def play(bench: Bench, add: Any) -> list[list[int]]:
        add([1, 2, 3], max_tokens=1, end_id=20 if stops == "end token" else -1)
        add([4, 5], max_tokens=6, stop_words=[[20]] if stops == "stop word" else ())
        bench.step()
        # The drafter's requests have stop words too; they are looked for where somebody else's last token is.
        bench.sampler.store.new_tokens[K] = 20
        seen = fed(bench)
        bench.run()
        return seen

    stock = Bench(TARGET, constant(20), chain=False)
    # Before 1.3.0rc2 the end token was each request's own, and the drafter's have none.
    assert ([20, 0, 0] in play(stock, stock.add)) is (stops == "stop word" or shape == "s2")
    played = Played(TARGET, constant(20), "sampled")
    assert [20, 0, 0] not in play(played.bench, played.ask)
    assert played.drafted(2)[1] == K


# 7. Both methods run under inference mode, and so do ours: what they make and change is not for anybody else.


@pytest.mark.parametrize("mode", MODES)
def test_rows_and_tokens_are_written_in_place(shape: str, mode: str) -> None:
    assert not torch.is_inference_mode_enabled()
    asked = {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "bad_word_ids": ((20, 20), (0,))}
    expected = follows(ANY_TEXT, params=asked, max_tokens=16)
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(ANY_TEXT, params(**asked), max_tokens=16)
    played.run()
    assert played.output(request) == expected
    assert expected != greedy(TARGET, ANY_TEXT, 16)
    assert sum(block.accepted for block in played.blocks(request)) > 0


# 8. Tables on the host go by slots, and a slot is no place in a batch.


@pytest.mark.parametrize("mode", MODES)
def test_tokens_go_where_the_slot_is(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    slots: list[list[int]] = []
    look(
        played.bench.executor,
        "_forward_step",
        lambda batch: slots.append([r.py_seq_slot for r in batch.all_requests()]),
    )
    waves = [[(i, 1 + j) for j in range(3)] for i in (2, 4, 6)]
    for wave in waves:
        for prompt in wave:
            played.ask(prompt, CascadeParams(seed=prompt[1]), max_tokens=7 + prompt[1], temperature=1.0)
        played.bench.step()
    played.run()
    assert slots[0] == [LAST_SLOT, LAST_SLOT - 1, LAST_SLOT - 2]
    for request in played.reports:
        gained = [token for block in played.blocks(request) for token in block.token_ids]
        assert played.output(request) == gained[: len(played.output(request))]
    assert len(played.reports) == 9


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
    played = Played(TARGET, DRAFTER, mode, settings={"default_rule": LOSSY})
    stranger = played.ask(ANY_TEXT, params(), max_tokens=12, logprobs=1)
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


# 12. With drafts TensorRT-LLM takes biases and generated rows from other requests' rows.


@pytest.mark.parametrize("order", [(True, False), (False, True), (True, True), (False, True, True, False)])
@pytest.mark.parametrize("mode", MODES)
def test_a_bias_reaches_its_own_rows(shape: str, mode: str, order: Sequence[bool]) -> None:
    bias = torch.zeros(1, VOCAB)
    bias[0, 11] = 7.0
    biased = FakeModel(rows=lambda token_ids: TARGET.rows(token_ids) + bias, vocab_size=VOCAB)
    expected = {i: greedy(biased if has else TARGET, (4, i), 12) for i, has in enumerate(order, 1)}

    def serve(bench: Bench) -> dict[int, list[int]]:
        for i, has in enumerate(order, 1):
            bench.add((4, i), max_tokens=12, embedding_bias=bias if has else None)
        bench.run()
        return {i: bench.output(i) for i in expected}

    # TensorRT-LLM adds it to somebody else's, or fails for everybody.
    assert serve(Bench(TARGET, DRAFTER, chain=mode == "argmax")) != expected
    played = Played(TARGET, DRAFTER, mode)
    assert serve(played.bench) == expected


@pytest.mark.parametrize("mode", MODES)
def test_who_wants_rows_is_not_decided_for(shape: str, mode: str) -> None:
    from tensorrt_llm.bindings.executor import OutputConfig

    played = Played(TARGET, DRAFTER, mode, settings={"default_rule": LOSSY})
    wants = {"attributes": {"output_config": OutputConfig(return_generation_logits=True)}}
    request = played.ask(ANY_TEXT, params(), max_tokens=12, **wants)
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
        stock = Bench(TARGET, DRAFTER, chain=mode == "argmax")
        stock.add(ANY_TEXT, min_tokens=30, **asked)
        stock.step()
        # No end token, and all tokens are banned; the loop fails everybody.
        assert "probability tensor" in stock.errors[1]
    free = follows(ANY_TEXT, **{**asked, "end_id": -1})
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(ANY_TEXT, params(draft_length=0), min_tokens=6, **asked)
    drafted = played.ask((4, 5), params(), min_tokens=12, **asked)
    played.run()
    assert end_id != 20 or 20 in free[:6] or follows(ANY_TEXT, **asked) == free
    assert end_id == 20 or played.output(request) == free
    assert 20 not in played.output(drafted) or end_id != 20
    assert len(played.output(drafted)) == 12
    assert len(played.output(request)) >= 6


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
