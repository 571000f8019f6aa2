"""What holds after every round, whatever happens in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.request import FinishReason, GenerationRequest, RoundOutput, TokenSource
from spec_cascade.errors import ConfigError, QueueFullError
from tests.unit.decoding.bench import CHUNK, MAX_SEQ_LEN, Bench, drained, prompt, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.models import Proposal
    from spec_cascade.decoding.sequence import Sequence


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_both_caches_hold_the_committed_tokens_after_every_round(temperature: float) -> None:
    bench = Bench()
    rules = ["strict", "token_v3:alpha=0.8", "opt:alpha=0.1", "target_only", "chow:alpha=0.3"]
    added = [
        bench.add(prompt(3 + 5 * i, i), rule=rules[i % 5], temperature=temperature, seed=i, max_tokens=5 + 6 * i)
        for i in range(8)
    ]
    bench.run()
    for i, sequence in enumerate(added):
        outputs = drained(sequence)
        assert [o.index for o in outputs] == list(range(len(outputs)))
        assert [o.finish_reason for o in outputs[:-1]] == [None] * (len(outputs) - 1)
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        assert tokens(outputs) == sequence.output_ids
        assert len(tokens(outputs)) == 5 + 6 * i


def test_nothing_is_counted_that_was_not_kept() -> None:
    bench = Bench(noise=0.01)
    sequence = bench.add(prompt(5), temperature=0, max_tokens=23)
    bench.run()
    outputs, counts = drained(sequence), sequence.statistics
    sources = [s for o in outputs for s in o.sources]
    assert counts.num_output_tokens == len(sources) == 23
    assert counts.num_accepted_draft_tokens == sources.count(TokenSource.DRAFTER) > 0
    assert counts.num_residual_tokens == sources.count(TokenSource.RESIDUAL)
    assert counts.num_bonus_tokens == sources.count(TokenSource.BONUS)
    assert counts.num_target_calls == len(outputs)
    assert counts.verifier == "reference: the logits are not on a CUDA device"
    assert sum(counts.acceptance_histogram) == counts.num_spec_steps
    assert sum(j * n for j, n in enumerate(counts.acceptance_histogram)) == counts.num_accepted_draft_tokens


def greedy_run(**sampling: Any) -> tuple[list[int], list[RoundOutput]]:
    bench = Bench(noise=0.0)
    sequence = bench.add(prompt(5), temperature=0, **{"max_tokens": 30, **sampling})
    bench.run()
    outputs = drained(sequence)
    return tokens(outputs), outputs


@pytest.mark.parametrize("cut", range(8))
def test_a_stop_token_inside_an_accepted_block_ends_the_output_there(cut: int) -> None:
    full, _ = greedy_run()
    stop = full[cut]
    first = full.index(stop)
    output, chunks = greedy_run(stop_token_ids=(stop,))
    assert output == full[: first + 1]
    assert chunks[-1].finish_reason is FinishReason.STOP
    statistics = chunks[-1].statistics
    assert statistics is not None
    assert statistics.num_output_tokens == first + 1


def test_the_end_token_ends_the_output_unless_it_is_ignored() -> None:
    full, _ = greedy_run()
    for ignore in (False, True):
        bench = Bench(noise=0.0, eos=frozenset({full[3]}))
        sequence = bench.add(prompt(5), temperature=0, max_tokens=30, ignore_eos=ignore)
        bench.run()
        expected = full if ignore else full[: full.index(full[3]) + 1]
        assert tokens(drained(sequence)) == expected


@pytest.mark.parametrize("max_tokens", range(1, 12))
def test_max_tokens_is_never_passed(max_tokens: int) -> None:
    full, _ = greedy_run()
    output, chunks = greedy_run(max_tokens=max_tokens)
    assert output == full[:max_tokens]
    assert chunks[-1].finish_reason is FinishReason.LENGTH


def test_prompt_and_output_never_pass_max_seq_len() -> None:
    bench = Bench(noise=0.0)
    sequence = bench.add(prompt(MAX_SEQ_LEN - 7), temperature=0, max_tokens=100)
    bench.run()
    assert len(sequence.token_ids) == MAX_SEQ_LEN
    assert drained(sequence)[-1].finish_reason is FinishReason.LENGTH


def test_a_request_gets_its_first_token_while_others_run() -> None:
    bench = Bench()
    long = bench.add(prompt(4), max_tokens=80, seed=1)
    for _ in range(3):
        bench.step()
    late = bench.add(prompt(2 * CHUNK, 3), max_tokens=4, seed=2)
    bench.step()
    assert late.num_emitted == 0
    before = long.num_emitted
    bench.step()
    assert late.num_emitted >= 1
    assert long.num_emitted > before
    assert long.slot >= 0


def test_a_request_draws_the_same_tokens_whatever_its_company() -> None:
    def output(company: int) -> list[int]:
        bench = Bench(batch=8)
        sequence = bench.add(prompt(6), rule="token_v3:alpha=0.8", seed=2**63 + 11, max_tokens=25)
        for i in range(company):
            bench.add(prompt(3 + 4 * i, i), rule=["opt:alpha=0.2", "strict"][i % 2], seed=i, max_tokens=6 + 3 * i)
        bench.run()
        return tokens(drained(sequence))

    alone = output(0)
    assert output(7) == alone
    assert output(3) == alone


def test_cancelled_requests_leave_at_once_and_the_others_go_on() -> None:
    bench = Bench(batch=2)
    running, other, waiting = (bench.add(prompt(4, i), max_tokens=20, seed=i) for i in range(3))
    bench.step()
    running.cancelled.set()
    waiting.cancelled.set()
    bench.step()
    for sequence in (running, waiting):
        assert drained(sequence)[-1].finish_reason is FinishReason.CANCELLED
    bench.run()
    assert other.num_emitted == 20
    assert bench.loop.statistics().num_finished == {"cancelled": 2, "length": 1}


def test_a_full_queue_refuses() -> None:
    bench = Bench(batch=2, queue=1)
    for i in range(3):
        bench.add(prompt(4, i), max_tokens=4)
    with pytest.raises(QueueFullError, match="the limit is 1"):
        bench.add(prompt(4), max_tokens=4)
    bench.run()


def test_who_waits_is_admitted_by_priority_and_equal_ones_in_their_order() -> None:
    bench = Bench(batch=1)
    running = bench.add(prompt(4), max_tokens=6, priority=0)
    bench.step()
    asked = [0.5, 0.0, 1.0, 0.5, 0.75, 1.0]
    waiting = [bench.add(prompt(4, i), max_tokens=2, priority=priority) for i, priority in enumerate(asked)]
    admitted: list[Sequence] = []
    while not bench.scheduler.is_idle:
        if bench.scheduler.running and bench.scheduler.running[0] not in admitted:
            admitted += bench.scheduler.running
        bench.step()
    assert [sequence.request.priority for sequence in waiting] == asked
    assert admitted == [running, *(waiting[i] for i in (2, 5, 4, 0, 3, 1))]


@pytest.mark.parametrize("priority", [-0.1, 1.1, float("nan")])
def test_a_priority_is_between_0_and_1(priority: float) -> None:
    with pytest.raises(ConfigError, match=r"priority = .* a number in \[0, 1\]"):
        GenerationRequest(prompt_ids=(1,), priority=priority)


def test_the_time_of_each_round_that_judged_drafts_is_kept() -> None:
    bench = Bench()
    bench.add(prompt(4), max_tokens=6, draft_length=0)
    bench.run()
    assert bench.loop.statistics().num_judged_rounds == 0
    assert bench.loop.statistics().verify_seconds == ()
    drafted = bench.add(prompt(4, 1), max_tokens=30)
    bench.run()
    statistics = bench.loop.statistics()
    assert statistics.num_judged_rounds == drafted.statistics.num_spec_steps > 1
    assert len(statistics.verify_seconds) == statistics.num_judged_rounds
    assert 0 < sum(statistics.verify_seconds) < statistics.seconds.verify
    bench.loop.reset_statistics()
    assert bench.loop.statistics().verify_seconds == ()


def test_prompts_do_not_tell_what_a_token_of_a_decode_round_costs() -> None:
    """Hundreds of tokens take time in proportion; those of a block nearly none: one line through both is wrong."""
    bench = Bench()
    bench.add(prompt(60), max_tokens=12, draft_length=0)
    bench.run()
    seen = bench.loop.policy.costs.score
    assert seen.weight > 10
    assert seen.mean_tokens == 1


def test_drafting_stops_by_the_very_rows_that_the_confidence_gate_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a penalty took from the drafter's favourite it is not confident of."""
    bench = Bench(noise=0.0, confidence=0.5)
    for model in (bench.target, bench.draft_model):
        model._model.lm_head.weight.data.mul_(8)
    peaks: list[float] = []
    drafter = bench.loop.drafter
    assert drafter is not None
    propose = drafter.propose

    def watched(sequences: Seq[Sequence], lengths: Seq[int]) -> Proposal:
        proposal = propose(sequences, lengths)
        if proposal.logits is not None:
            peaks.extend(proposal.logits[0, : proposal.lengths[0]].float().softmax(-1).amax(-1).tolist())
        return proposal

    monkeypatch.setattr(drafter, "propose", watched)
    bench.add(prompt(4, 1), max_tokens=60, draft_length=6, presence_penalty=2.0, frequency_penalty=2.0)
    bench.run()
    assert len(peaks) > 20
    assert min(peaks) >= 0.5
