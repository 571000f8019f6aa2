"""What bites in TensorRT-LLM's drafting bites in its fake too; each trap is sprung once, on the stock parts."""

from __future__ import annotations

import pytest
import torch

from tests.trtllm_fake import SHAPES, Bench, installed
from tests.trtllm_fake.invented import VOCAB, constant, greedy, invented, wavering
from tests.trtllm_fake.stage import current
from tests.trtllm_fake.watching import drafted, look

TARGET = invented()
K = 3


@pytest.fixture(params=list(SHAPES), scope="module")
def shape(request):
    with installed(request.param, threaded=False):
        yield SHAPES[request.param]


def test_the_chain_loop_leaves_tensors_without_dimension_the_other_integers(shape):
    for chain, kind in ((True, torch.Tensor), (False, int)):
        bench = Bench(TARGET, wavering(TARGET), chain=chain)
        seen = drafted(bench)
        bench.add([1, 2, 3])
        bench.step(3)
        tokens = [token for drafts, _ in seen for token in drafts]
        assert len(tokens) == 2 * K
        assert {type(token) for token in tokens} == {kind}
        assert not chain or {(token.dim(), token.dtype) for token in tokens} == {(0, torch.int64)}


def test_rows_of_drafts_are_all_there_in_a_chain_greedy_or_not_and_step_by_step_one_is_missing(shape):
    for temperature in (None, 0.9):
        bench = Bench(TARGET, wavering(TARGET))
        seen = drafted(bench)
        bench.add([1, 2, 3], temperature=temperature)
        bench.step(3)
        assert [rows.shape for _, rows in seen] == [(K, VOCAB)] * 2
    bench = Bench(TARGET, wavering(TARGET), chain=False)
    seen = drafted(bench)
    bench.add([1, 2, 3], temperature=0.9)
    bench.add([1, 2, 3])
    bench.step(3)
    # In a request's first round the step over its prompt counts for none; greedy requests have none at all.
    late = [K - 2, None, K - 1, None] if shape.since_1_2_0 else [None] * 4
    assert [None if rows is None else len(rows) for _, rows in seen] == late


def test_without_their_transfer_finished_each_step_no_rows_of_short_drafts_arrive(shape, monkeypatch):
    monkeypatch.setattr(current(), "finish_chunks", False)
    bench = Bench(TARGET, wavering(TARGET), chain=False)
    seen = drafted(bench)
    bench.add([1, 2, 3], temperature=0.9)
    bench.step(4)
    assert [rows for _, rows in seen] == [None] * 3


def test_who_was_not_drafted_for_carries_zeros_and_the_rows_of_an_earlier_round(shape):
    bench = Bench(TARGET, wavering(TARGET, max_seq_len=9))
    seen = drafted(bench)
    bench.add([1, 2, 3], max_tokens=20)
    bench.run()
    fresh = [(tokens, rows) for tokens, rows in seen if isinstance(tokens[0], torch.Tensor)]
    stale = seen[len(fresh) :]
    assert fresh
    assert stale
    assert all(tokens == [0] * K and type(tokens[0]) is int for tokens, _ in stale)
    assert all(rows is fresh[-1][1] for _, rows in stale)
    assert bench.output(1) == greedy(TARGET, [1, 2, 3], 20)


def test_the_loop_hands_over_three_arguments_the_drafter_four_and_both_under_inference_mode(shape):
    bench = Bench(TARGET, wavering(TARGET), chain=False)
    calls = []
    look(bench.sampler, "sample_async", lambda *args: calls.append((args[0].all_requests()[0].py_is_draft, len(args))))
    sampled = []
    look(
        bench.sampler,
        "_process_requests",
        lambda *_, **__: sampled.append(torch.is_inference_mode_enabled()),
    )
    states = []
    look(bench.sampler, "update_requests", lambda state, *_: states.append(state))
    bench.add([1, 2, 3])
    bench.step(2)
    assert calls == [(False, 3)] + [(True, 4)] * K + [(False, 3)]
    assert all(sampled)
    assert all(state.host.new_tokens.is_inference() for state in states)
    # Of the drafter's batches there is one, emptied and filled behind the states' backs.
    batches = [state.scheduled_requests for state in states[1:-1]]
    assert len({id(batch) for batch in batches}) == 1
    assert batches[0].all_requests() != []


def test_a_cuda_graph_has_rows_that_are_nobodys(shape):
    from tensorrt_llm.llmapi.llm_args import CudaGraphConfig

    bench = Bench(TARGET, wavering(TARGET), cuda_graph_config=CudaGraphConfig(batch_sizes=[4], enable_padding=True))
    rows = []
    look(bench.executor, "_sample_async", lambda _, outputs: rows.append(outputs["logits"].isnan().any(-1).tolist()))
    bench.add([1, 2, 3], max_tokens=9)
    bench.run()
    assert rows[0] == [False]
    assert rows[1] == [False] * (K + 1) + [True] * 3 * (K + 1)
    assert bench.output(1) == greedy(TARGET, [1, 2, 3], 9)


def test_an_error_in_drafting_ends_the_loop(shape):
    bench = Bench(TARGET, wavering(TARGET))
    bench.add([1, 2, 3])
    bench.step()

    def fail(*_):
        raise ZeroDivisionError("in drafting")

    bench.executor.drafter.process_static_draft_outputs = fail
    for again in (bench.step, bench.step, lambda: bench.add([1])):
        with pytest.raises(ZeroDivisionError, match="in drafting"):
            again()


def test_an_error_in_sampling_drafts_is_swallowed_and_costs_their_slots(shape):
    bench = Bench(TARGET, wavering(TARGET), chain=False, max_batch_size=2)
    seen = drafted(bench)

    def fail(batch, *_):
        if batch.all_requests()[0].py_is_draft:
            raise ZeroDivisionError("swallowed")

    look(bench.sampler, "sample_async", fail)
    i = bench.add([1, 2, 3])
    bench.step(3)
    assert [tokens for tokens, _ in seen] == [[0] * K] * 2
    assert bench.output(i) == greedy(TARGET, [1, 2, 3], len(bench.output(i)))
    with pytest.raises(ValueError, match="No free slots"):
        bench.step()


def test_a_drafted_request_ends_where_a_target_of_its_slots_number_would(shape):
    bench = Bench(TARGET, constant(20), chain=False)
    ended = bench.add([1, 2, 3], max_tokens=1, end_id=20)
    bench.add([4, 5])
    bench.step()
    assert list(bench.reasons) == [ended]
    # The drafter's slots are counted anew: the one that is left drafts in the slot of the one that has ended.
    seen = drafted(bench)
    bench.step()
    [(tokens, _)] = seen
    assert tokens == ([20, 0, 0] if shape.since_1_3_0 else [20, 20, 20])


@pytest.mark.parametrize(
    ("token", "count", "message"), [(None, 1, "places in the KV cache"), (0, 1, "is of"), (0, 0, "")]
)
def test_a_wrong_count_or_a_token_that_was_not_drafted_breaks_the_books_of_the_kv_cache(shape, token, count, message):
    bench = Bench(TARGET, wavering(TARGET))

    def commit(request, **_):
        drafts = request.py_draft_tokens
        for accepted in [] if token is None else [token] * count:
            assert accepted != drafts[0]
            request.add_new_token(accepted, 0)
        request.add_new_token(1, 0)
        return count

    bench.sampler.process_draft_tokens = commit
    bench.add([1, 2, 3])
    bench.step()
    if not message:
        bench.step(3)
        return
    with pytest.raises(AssertionError, match=f"request 1: .*{message}"):
        bench.step()


def test_a_request_that_sat_out_a_round_without_drafts_is_rewound_by_more_than_it_was_given(shape):
    bench = Bench(TARGET, wavering(TARGET))
    bench.executor.drafter.max_concurrency = 1
    bench.add([1, 2, 3], max_tokens=3)
    i = bench.add([4, 5], max_tokens=30)
    if shape.since_1_2_0:
        with pytest.raises(AssertionError, match=f"request {i}"):
            bench.run()
    else:
        bench.run()
        assert bench.output(i) == greedy(TARGET, [4, 5], 30)


def test_overlapping_rounds_are_not_played_but_for_making_the_executor(shape):
    bench = Bench(TARGET, wavering(TARGET), disable_overlap_scheduler=False)
    assert not bench.executor.disable_overlap_scheduler
    bench.add([1, 2, 3])
    with pytest.raises(NotImplementedError, match="overlap"):
        bench.step()
    # The step-by-step loop switches it off itself, before 1.2.0rc8 it does not.
    stepwise = Bench(TARGET, wavering(TARGET), disable_overlap_scheduler=False, chain=False)
    assert stepwise.executor.disable_overlap_scheduler is shape.since_1_2_0
