"""The traps of TensorRT-LLM, each sprung under our sampler: what protects us from it is what these tests stand for.

Where it can be shown in the same round, the stock sampler falls into the trap first. The numbers are those of the list
that the sampler was written from; these are the traps of batches, drafts and slots.
"""

from __future__ import annotations

import inspect
import itertools
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from tests.trtllm_fake import Bench
from tests.trtllm_fake.invented import constant, greedy, invented, wavering
from tests.unit.trtllm.played import (
    ANY_TEXT,
    DRAFTER,
    LOSSY,
    MODES,
    TARGET,
    K,
    Played,
    failing_import,
    look,
    params,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spec_cascade.engines.tensorrt_llm.decision import Turn


LAST_SLOT = 7


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


@pytest.mark.parametrize("shape", ["s15", "s2"], indirect=True)
def test_rows_of_tokens_that_tensorrt_llm_drew_are_not_taken_for_an_argmaxs(shape: str) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    request = played.ask(ANY_TEXT, params(), max_tokens=12, temperature=1.0)
    played.sampler.should_provide_draft_probs = lambda _: True
    played.sampler._drafts.draw = lambda *_: None
    carried: list[bool] = []

    def spy(batch: Any) -> None:
        carried.extend(each.py_draft_logits is not None for each in batch.generation_requests)

    look(played.bench.executor, "_forward_step", spy)
    played.run()
    assert True in carried
    assert set(played.drafted(request)) == {0}


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


def test_a_resource_manager_is_handed_on_where_there_is_one(shape: str) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    came: list[Any] = []
    went: list[Any] = []
    for kind, seen in ((type(played.sampler), came), (type(played.sampler).__base__, went)):
        look(kind, "sample_async", lambda *args, seen=seen: seen.append(args[4:]))
        look(kind, "update_requests", lambda *args, seen=seen: seen.append(args[2:]))
    played.ask(ANY_TEXT, params(), max_tokens=6)
    played.run()
    managers = [args[0] if args else None for args in came]
    assert [args[0] for args in went] == managers
    assert played.bench.executor.resource_manager in managers


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


@pytest.mark.parametrize("fallback", ["error", "stock"])
@pytest.mark.parametrize("mode", MODES)
def test_a_request_that_cannot_be_followed_fails_nobody(
    shape: str,
    mode: str,
    fallback: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    played = Played(TARGET, DRAFTER, mode, settings={"fallback": fallback})
    fails = failing_import(tmp_path, monkeypatch)
    judged: set[int] = set()
    played.watch(lambda turns: judged.update(turn.followed.request_id for turn in turns))
    with caplog.at_level(logging.ERROR, "spec_cascade"):
        silent = played.bench.add(ANY_TEXT, carrier=params(rule=fails, trusted=True), max_tokens=12)
        wrong = played.ask(ANY_TEXT, params(rule="no_such_rule"), max_tokens=12)
        right = played.ask((4, 5), params(), max_tokens=12)
        played.run()
    assert played.output(right) == greedy(TARGET, (4, 5), 12)
    # The others not by the default rule either.
    assert judged == {right}
    # Who waits for reports is told.
    assert [(report.block, report.position) for report in played.reports[wrong]] == [(None, 0)]
    assert "no_such_rule" in played.reports[wrong][0].error
    assert (played.output(wrong), played.bench.reasons[wrong]) == ([], ["CANCELLED"])
    # The verifier that he has not asked for decides for nobody, unless that was allowed.
    assert played.output(silent) == (greedy(TARGET, ANY_TEXT, 12) if fallback == "stock" else [])
    # Said once, and not in each of its rounds.
    assert sum("cannot be decoded by its rule" in message for message in caplog.messages) == 2


@pytest.mark.parametrize("call", [1, 2, 3])
def test_an_error_in_drafting_costs_drafts_and_nothing_else(shape: str, call: int) -> None:
    played = Played(TARGET, DRAFTER, "sampled")
    request = played.ask(ANY_TEXT, params(), max_tokens=14)
    played.bench.step(2)
    draw, calls = played.sampler._drafts.draw, itertools.count(1)

    def draw_and_fail(*args: Any) -> Any:
        drawn = draw(*args)
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
