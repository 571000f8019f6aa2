"""What bites in TensorRT-LLM's sampler bites in its fake too; each trap is sprung once, on the stock sampler."""

from __future__ import annotations

import pytest
import torch

from tests.trtllm_fake import GARBAGE, SHAPES, Bench, installed
from tests.trtllm_fake.invented import VOCAB, greedy, invented, wavering
from tests.trtllm_fake.stage import current
from tests.trtllm_fake.watching import drafted, look, target_rows

TARGET = invented()
K = 3
LAST_SLOT = 7


@pytest.fixture(params=list(SHAPES), scope="module")
def shape(request):
    with installed(request.param, threaded=False):
        yield SHAPES[request.param]


def test_tables_are_by_slot_and_a_slot_is_no_place_in_a_batch_and_has_a_next_owner(shape):
    bench = Bench(TARGET, wavering(TARGET))
    first, second = bench.add([1, 2, 3], max_tokens=4), bench.add([4, 5], max_tokens=30)
    slots = []
    look(bench.executor, "_forward_step", lambda batch: slots.append([r.py_seq_slot for r in batch.all_requests()]))
    bench.step()
    bench.step(4)
    assert bench.reasons == {first: ["LENGTH"]}
    bench.add([6, 7], max_tokens=30)
    states = []
    look(bench.sampler, "update_requests", lambda state, *_: states.append(state))
    bench.step()
    assert slots[0] == [LAST_SLOT, LAST_SLOT - 1]
    assert slots[-1] == [LAST_SLOT, LAST_SLOT - 1]  # the newcomer, a prompt, comes first: in the slot of the first
    [state] = states
    assert state.host.new_tokens.shape == (K + 1, LAST_SLOT + 1, 1)
    assert len(state.host.finish_reasons_list()) == LAST_SLOT + 1
    assert len(state.host.finish_reasons_list()[0]) == K + 1
    assert state.host.new_tokens[0, LAST_SLOT, 0] == greedy(TARGET, [6, 7], 1)[0]
    # Rows of the slot beyond the newcomer's one are the one's before.
    assert state.host.new_tokens[1, LAST_SLOT, 0] != GARBAGE
    assert second in bench.tokens


def test_host_tensors_are_garbage_until_their_event_has_been_waited_for(shape):
    bench = Bench(TARGET, wavering(TARGET))
    seen = []

    def before_it_waits(state, *_):
        seen.append((state.host.new_tokens.clone(), state.host.new_tokens))

    look(bench.sampler, "update_requests", before_it_waits)
    bench.add([1, 2, 3])
    bench.step()
    [(early, late)] = seen
    assert (early == GARBAGE).all()
    assert late[0, LAST_SLOT, 0] == greedy(TARGET, [1, 2, 3], 1)[0]


def test_the_next_forward_writes_its_rows_where_the_last_one_had_them(shape):
    bench = Bench(TARGET, wavering(TARGET))
    kept = target_rows(bench)
    bench.add([1, 2, 3])
    bench.step(3)
    view, copy = kept[1]
    assert view.shape == (K + 1, VOCAB)
    assert not torch.equal(view, copy)


def test_a_prompts_stop_words_are_looked_for_in_a_row_that_is_not_its_own(shape):
    bench = Bench(TARGET, wavering(TARGET))
    expected = greedy(TARGET, [1, 2, 3], 6)
    missed = bench.add([1, 2, 3], max_tokens=6, stop_words=[[expected[0]]])
    bench.step()
    assert bench.output(missed) == expected[:1]
    assert missed not in bench.reasons
    # What an earlier owner left in the last row of the slot ends the next one's request.
    bench.sampler.store.new_tokens[K, LAST_SLOT - 1] = 20
    ended = bench.add([4, 5], stop_words=[[20]])
    bench.step()
    assert bench.reasons[ended] == ["STOP_WORDS"]
    assert 20 not in bench.output(ended)


def test_stop_words_of_a_round_with_drafts_are_found(shape):
    expected = greedy(TARGET, [1, 2, 3], 16)
    bench = Bench(TARGET, wavering(TARGET))
    i = bench.add([1, 2, 3], max_tokens=16, stop_words=[expected[5:7], [22, 22]])
    bench.run()
    places = [n for n in range(2, 17) if expected[n - 2 : n] == expected[5:7]]
    assert bench.output(i) == expected[: places[0]]
    assert bench.reasons[i] == ["STOP_WORDS"]


@pytest.mark.parametrize("name", ["sample_async", "update_requests"])
def test_an_error_in_the_sampler_is_everybodys_and_the_loop_goes_on(shape, name):
    bench = Bench(TARGET, wavering(TARGET))
    ids = [bench.add([1, 2, 3]), bench.add([4, 5])]
    bench.step(2)

    def fail(*_):
        raise ZeroDivisionError("one request's fault")

    original = look(bench.sampler, name, fail)
    bench.step()
    assert bench.errors == dict.fromkeys(ids, "one request's fault")
    setattr(bench.sampler, name, original)
    after = bench.add([1, 2, 3], max_tokens=9)
    bench.run()
    assert bench.output(after) == greedy(TARGET, [1, 2, 3], 9)


def test_a_prompt_is_none_any_more_when_it_is_given_its_token(shape):
    bench = Bench(TARGET, wavering(TARGET))
    seen = []
    look(bench.sampler, "sample_async", lambda batch, *_: seen.append(batch.context_requests[0].is_context_init_state))
    look(
        bench.sampler,
        "update_requests",
        lambda state, *_: seen.append(state.scheduled_requests.context_requests[0].is_context_init_state),
    )
    i = bench.add([1, 2, 3])
    bench.step()
    assert seen == [True, False]
    with pytest.raises(RuntimeError, match="context phase"):
        assert bench.request(i).is_last_context_chunk


def test_minimal_lengths_and_biases_change_the_models_rows_in_place_and_biases_the_wrong_ones(shape):
    bench = Bench(TARGET, wavering(TARGET))
    kept = target_rows(bench)
    bench.add([1, 2, 3], min_tokens=30, end_id=-1)
    bench.add([4, 5])
    bench.step(2)
    rows, before = kept[-1]
    # An end id of -1, which is none, bans the last token of the vocabulary.
    assert rows[: K + 1, -1].tolist() == [-torch.inf] * (K + 1)
    assert torch.equal(rows[K + 1 :], before[K + 1 :])
    bench = Bench(TARGET, wavering(TARGET))
    kept = target_rows(bench)
    bench.add([1, 2, 3])
    bench.add([4, 5], embedding_bias=torch.full((1, VOCAB), 0.5))
    bench.step(2)
    rows, before = kept[-1]
    # It is the second request, and its rows begin at K + 1.
    assert (rows != before).all(-1).nonzero().flatten().tolist() == [1, 2, 3, 4]
    bench.add([6, 7])
    bench.step(2)
    assert len(bench.errors) == 3  # the last of the batch has none


def test_probabilities_of_a_group_are_counted_from_the_wrong_row_where_others_are_in_it(shape):
    mode = {}
    if shape.since_1_3_0:
        from tensorrt_llm.sampling_params import LogprobMode

        mode = {"py_logprobs_mode": LogprobMode.PROCESSED}
    bench = Bench(TARGET, wavering(TARGET))
    i = bench.add([1, 2, 3], temperature=0.8)
    bench.step()
    text = [1, 2, 3, *bench.output(i)]
    other = bench.add([4, 5], temperature=0.8, logprobs=1, attributes=mode)
    bench.step()
    whose = [4, 5] if shape.since_1_3_0 else text
    expected = torch.softmax(TARGET.rows(whose)[-1] / 0.8, -1)
    assert torch.allclose(bench.request(i).py_target_probs[0], expected)
    assert bench.request(other).py_target_probs is None


def test_what_sampling_gives_back_differs_from_shape_to_shape(shape):
    from tensorrt_llm._torch.pyexecutor.sampling_utils import GREEDY, sample

    rows = torch.tensor([[0.0, 2.0, 1.0]])
    given = sample(GREEDY, rows)
    assert len(given) == (3 if shape.since_1_3_0 else 2)
    expected = torch.tensor([[0.0, 1.0, 0.0]]) if shape.since_1_3_0 else torch.softmax(rows, -1)
    assert torch.allclose(given[1], expected)
    # The nucleus may end exactly at the mass that was asked for.
    halves = torch.tensor([[0.5, 0.5]]).log()
    kept = sample(("top_p", 0.5, 1.0), halves, generator=torch.Generator().manual_seed(0))[1]
    assert (kept > 0).sum() == (1 if shape.since_1_3_0 else 2)


def test_seeds_are_not_heard(shape):
    def tokens(seed):
        bench = Bench(TARGET, wavering(TARGET))
        i = bench.add([1, 2, 3], max_tokens=16, temperature=1.0, seed=seed)
        bench.run()
        return bench.output(i)

    assert tokens(1) == tokens(2)


def test_log_probs_tell_of_the_samplers_own_tokens_whatever_is_committed(shape):
    bench = Bench(TARGET, wavering(TARGET))

    def commit_another(request, **_):
        request.add_new_token(0, 0)
        return 0

    bench.sampler.process_draft_tokens = commit_another
    i = bench.add([1, 2, 3], max_tokens=4, logprobs=1)
    bench.step(4)
    assert bench.output(i)[1:] == [0, 0, 0]
    tables = bench.results[i].log_probs[0]
    assert len(tables) == 4
    assert [max(table, key=lambda token: table[token].logprob) for table in tables[:2]] == greedy(TARGET, [1, 2, 3], 2)
    assert not any(0 in table for table in tables[1:3])


def test_rows_of_a_prompt_whose_logits_are_asked_for_are_left_out(shape):
    bench = Bench(TARGET, wavering(TARGET))
    first = bench.add([4, 5], max_tokens=9)
    bench.step(2)
    second = bench.add([1, 2, 3, 4, 5], max_tokens=9, return_context_logits=True)
    bench.run()
    assert bench.output(first) == greedy(TARGET, [4, 5], 9)
    assert bench.output(second) == greedy(TARGET, [1, 2, 3, 4, 5], 9)
    assert torch.allclose(bench.results[second].context_logits, TARGET.rows([1, 2, 3, 4, 5]))


def test_further_sequences_of_a_prompt_have_copies_of_what_hangs_on_the_first(shape):
    bench = Bench(TARGET, wavering(TARGET))
    carrier = {"rule": "strict"}
    i = bench.add([1, 2, 3], max_tokens=9, num_return_sequences=3, temperature=0.9, carrier=carrier)
    bench.step()
    requests = bench.executor.active_requests
    carriers = [request.py_logits_post_processors[0] for request in requests]
    assert carriers == [carrier] * 3
    assert len({id(each) for each in carriers}) == 3
    assert [request.py_request_id for request in requests] == [1, 2, 3]
    bench.run()
    assert [len(tokens) for tokens in bench.tokens[i]] == [9, 9, 9]


def test_logits_of_an_output_with_drafts_are_somebody_elses(shape, monkeypatch):
    monkeypatch.setattr(current(), "finish_chunks", True)
    bench = Bench(TARGET, wavering(TARGET))
    drafts = drafted(bench)
    bench.add([1, 2, 3])
    second = bench.add([4, 5], return_generation_logits=True, streaming=False)
    bench.step(2)
    rows = bench.request(second).py_result.generation_logits[0]
    text_of_the_first = [1, 2, 3, greedy(TARGET, [1, 2, 3], 1)[0], int(drafts[0][0][0])]
    assert torch.equal(rows, torch.stack([TARGET.rows([4, 5])[-1], TARGET.rows(text_of_the_first)[-1]]))


def test_a_thread_of_its_own_may_copy_to_the_host(shape):
    if not shape.since_1_2_0:
        assert not hasattr(Bench(TARGET).sampler, "async_worker_start")
        return
    bench = Bench(TARGET, wavering(TARGET), sampler_force_async_worker=True)
    bench.sampler.async_worker_start()
    futures = []
    look(bench.sampler, "update_requests", lambda state, *_: futures.extend(state.sampler_event.worker_futures))
    i = bench.add([1, 2, 3], max_tokens=9)
    bench.run()
    bench.sampler.async_worker_stop()
    assert len(futures) >= 2
    assert all(future.done() for future in futures)
    assert bench.output(i) == greedy(TARGET, [1, 2, 3], 9)
