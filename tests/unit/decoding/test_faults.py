"""Models that fail, under the loop stepped by hand: what it costs, and whom."""

from __future__ import annotations

import pytest
import torch

from spec_cascade.decoding.request import FinishReason, TokenSource
from tests.unit.decoding.bench import CHUNK, Bench, drained, prompt, tokens
from tests.unit.decoding.greedy import Greedy

FAILURES = [RuntimeError("planned"), torch.OutOfMemoryError("planned")]


def is_targets_own(sequence_prompt: list[int], output: list[int], max_tokens: int) -> bool:
    bench = Bench()
    sequence = bench.add(sequence_prompt, temperature=0, max_tokens=max_tokens)
    return Greedy(sequence_prompt, sequence.request.sampling, frozenset()).agrees(output, complete=True)


@pytest.mark.parametrize("error", FAILURES, ids=["raises", "out of memory"])
@pytest.mark.parametrize("after", [0, 1, 3])
@pytest.mark.parametrize("inside", [False, True])
def test_a_drafter_that_fails_loses_no_request_and_changes_no_greedy_token(
    error: Exception, after: int, inside: bool
) -> None:
    bench = Bench(pause_rounds=6)
    prompts = [prompt(3 + 9 * i, i) for i in range(3)]
    added = [bench.add(p, temperature=0, max_tokens=40) for p in prompts]
    for _ in range(6):
        bench.step()
    bench.draft_model.fail(error, after=after, inside=inside)
    bench.step()
    assert bench.draft_model.num_raised == 1
    assert all(bench.draft_model.length(slot) == 0 for slot in range(3))
    for _ in range(6):
        emitted = [s.num_emitted for s in added]
        bench.step()
        assert [s.num_emitted for s in added] == [n + 1 for n in emitted]
        assert all(bench.draft_model.length(slot) == 0 for slot in range(3))
    bench.run()
    for sequence, start in zip(added, prompts, strict=True):
        outputs = drained(sequence)
        assert is_targets_own(start, tokens(outputs), 40)
        # It drafts again, once it has seen the text once more.
        assert TokenSource.DRAFTER in [s for output in outputs[-6:] for s in output.sources]
    assert bench.loop.statistics().num_drafter_failures == 1


def test_nan_from_the_drafter_costs_one_round_and_no_request() -> None:
    bench = Bench(pause_rounds=4)
    prompts = [prompt(4, i) for i in range(3)]
    added = [bench.add(p, temperature=0, max_tokens=30) for p in prompts]
    for _ in range(2):
        bench.step()
    bench.draft_model.poisoned = lambda slot: slot != 1
    emitted = [s.num_emitted for s in added]
    bench.step()
    bench.draft_model.poisoned = lambda _slot: False
    gained = [s.num_emitted - n for s, n in zip(added, emitted, strict=True)]
    assert gained[0] == gained[2] == 1
    assert gained[1] >= 1
    assert bench.loop.statistics().num_drafter_failures == 1
    bench.run()
    assert all(is_targets_own(p, tokens(drained(s)), 30) for p, s in zip(prompts, added, strict=True))


@pytest.mark.parametrize("draft_length", [0, 4])
@pytest.mark.parametrize("bad", [0, 1, 2])
def test_nan_from_the_target_ends_that_request_alone(bad: int, draft_length: int) -> None:
    bench = Bench()
    prompts = [prompt(4, i) for i in range(3)]
    added = [bench.add(p, temperature=0, max_tokens=30, draft_length=draft_length) for p in prompts]
    for _ in range(2):
        bench.step()
    had = added[bad].num_emitted
    bench.target.poisoned = lambda slot: slot == bad
    bench.step()
    bench.target.poisoned = lambda _slot: False
    bench.run()
    outputs = drained(added[bad])
    assert outputs[-1].finish_reason is FinishReason.ERROR
    assert outputs[-1].error
    assert len(tokens(outputs)) == had
    for i in {0, 1, 2} - {bad}:
        assert is_targets_own(prompts[i], tokens(drained(added[i])), 30)


def test_an_ended_requests_statistics_stand() -> None:
    bench = Bench()
    added = [bench.add(prompt(4, i), temperature=0, max_tokens=30) for i in range(2)]
    bench.step()
    bench.target.poisoned = lambda slot: slot == 0
    before = added[0].statistics.seconds.score
    bench.loop.step()
    statistics = drained(added[0])[-1].statistics
    assert statistics is not None
    # The round that ended it was not one that it gained from, and its client may read the figures by now.
    assert statistics.seconds.score == before


@pytest.mark.parametrize("inside", [False, True])
def test_what_a_failed_forward_wrote_harms_nobody_afterwards(inside: bool) -> None:
    bench = Bench(batch=2)
    weight = bench.target._model.model.layers[0].input_layernorm.weight
    sound = weight.detach().clone()
    bench.add(prompt(30, 1), temperature=0, max_tokens=30)
    for _ in range(5):
        bench.step()
    with torch.no_grad():
        weight.fill_(torch.nan)
    bench.target.fail(RuntimeError("planned"), inside=inside)
    with pytest.raises(RuntimeError, match="planned"):
        bench.loop.step()
    bench.loop.abandon(FinishReason.ERROR, error="failed")
    with torch.no_grad():
        weight.copy_(sound)
    bench.check()
    long, short = prompt(50, 2), prompt(3, 3)
    added = [bench.add(p, temperature=0, max_tokens=20) for p in (short, long)]
    bench.run()
    assert [drained(s)[-1].finish_reason for s in added] == [FinishReason.LENGTH] * 2


def test_a_request_that_timed_out_or_was_cancelled_says_so_even_if_the_round_fails() -> None:
    bench = Bench(batch=1)
    running, cancelled, late = (bench.add(prompt(4, i), max_tokens=30) for i in range(3))
    bench.step()

    def fail_meanwhile(slot: int) -> bool:
        cancelled.cancelled.set()
        late.deadline = 0.0
        raise RuntimeError("planned")

    bench.target.poisoned = fail_meanwhile
    with pytest.raises(RuntimeError, match="planned"):
        bench.loop.step()
    bench.loop.abandon(FinishReason.ERROR, error="failed")
    assert drained(running)[-1].finish_reason is FinishReason.ERROR
    bench.target.poisoned = lambda _slot: False
    bench.run()
    assert drained(cancelled)[-1].finish_reason is FinishReason.CANCELLED
    assert drained(late)[-1].finish_reason is FinishReason.TIMEOUT


def test_requests_end_even_if_the_caches_cannot_be_emptied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that has failed for good refuses every call: its clients must not wait for ever."""
    bench = Bench(batch=2)
    added = [bench.add(prompt(4, i), max_tokens=30) for i in range(3)]
    bench.step()

    def refuse(*_arguments: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(bench.target.cache, "_wipe", refuse)
    monkeypatch.setattr(bench.target, "forward", refuse)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the device is gone"):
            bench.loop.step()
        bench.loop.abandon(FinishReason.ERROR, error="failed")
    assert [drained(s)[-1].finish_reason for s in added] == [FinishReason.ERROR] * 3
    assert not bench.scheduler.running


@pytest.mark.parametrize("leaves", ["finished", "cancelled"])
def test_a_request_whose_slot_cannot_be_freed_hears_of_its_end(leaves: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs no more, so no later failure would reach its client."""
    bench = Bench(batch=3)
    first = bench.add(prompt(4, 0), temperature=0, max_tokens=6 if leaves == "finished" else 40)
    others = [bench.add(prompt(4, i), temperature=0, max_tokens=40) for i in (1, 2)]
    bench.step()
    if leaves == "cancelled":
        first.cancelled.set()

    def refuse(*_arguments: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(bench.draft_model, "move", refuse)
    with pytest.raises(RuntimeError, match="the device is gone"):
        bench.run()
    bench.loop.abandon(FinishReason.ERROR, error="failed")
    outputs = drained(first)
    assert outputs[-1].finish_reason is (FinishReason.LENGTH if leaves == "finished" else FinishReason.CANCELLED)
    assert len(tokens(outputs)) == first.num_emitted
    assert [drained(s)[-1].finish_reason for s in others] == [FinishReason.ERROR] * 2


def test_a_long_prompt_stalls_nobody() -> None:
    bench = Bench()
    running = [bench.add(prompt(4, i), max_tokens=60, seed=i, draft_length=4 * (i % 2)) for i in range(3)]
    for _ in range(2):
        bench.step()
    long = bench.add(prompt(8 * CHUNK - 3, 9), max_tokens=4)
    for _ in range(8):
        emitted = [s.num_emitted for s in running]
        assert long.num_emitted == 0
        bench.step()
        assert all(s.num_emitted > n or s.slot < 0 for s, n in zip(running, emitted, strict=True))
    assert long.num_emitted > 0


def test_a_block_that_ends_early_beside_shorter_ones_is_no_failure() -> None:
    bench = Bench(confidence=0.9, noise=0.0)
    prompts = [prompt(4, i) for i in range(4)]
    added = [bench.add(p, temperature=0, max_tokens=40, draft_length=1 + 7 * (i % 2)) for i, p in enumerate(prompts)]
    bench.run()
    assert bench.loop.statistics().num_drafter_failures == 0
    assert all(is_targets_own(p, tokens(drained(s)), 40) for p, s in zip(prompts, added, strict=True))


def test_nan_from_the_drafter_is_no_lack_of_confidence() -> None:
    bench = Bench(confidence=0.5)
    bench.add(prompt(4), temperature=0, max_tokens=30)
    bench.step()
    bench.draft_model.poisoned = lambda _slot: True
    bench.step()
    assert bench.loop.statistics().num_drafter_failures == 1


def test_a_round_whose_drafts_are_all_lost_judged_none() -> None:
    bench = Bench()
    sequence = bench.add(prompt(4), temperature=0, max_tokens=30)
    for _ in range(2):
        bench.step()
    judged = bench.loop.statistics().num_judged_rounds
    assert judged == sequence.statistics.num_spec_steps > 0
    bench.draft_model.poisoned = lambda _slot: True
    bench.step()
    assert bench.loop.statistics().num_drafter_failures == 1
    assert bench.loop.statistics().num_judged_rounds == sequence.statistics.num_spec_steps == judged
    assert len(bench.loop.statistics().verify_seconds) == judged


def test_drafts_go_with_their_own_sequence_beside_a_prompt_in_process() -> None:
    """The long prompt has the lower slot: what is scored is then not simply the first rows of what was drafted."""
    bench = Bench(noise=0.02)
    long = bench.add(prompt(60, 1), temperature=0, max_tokens=4)
    short = [bench.add(prompt(4, seed), temperature=0, max_tokens=30) for seed in (2, 3)]
    for _ in range(5):
        bench.step()
    assert not long.num_emitted
    assert all(sequence.statistics.num_accepted_draft_tokens > 3 for sequence in short)
    bench.run()
    for sequence, seed in zip(short, (2, 3), strict=True):
        assert is_targets_own(prompt(4, seed), sequence.output_ids, 30)
