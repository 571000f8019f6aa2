"""The fake of TensorRT-LLM runs: its loop and its LLM API, with its own sampler."""

from __future__ import annotations

import asyncio
import importlib

import pytest
import torch

from tests.tiny import VOCAB as TINY_VOCAB
from tests.tiny import noisy, tiny_llama
from tests.trtllm_fake import SHAPES, Bench, FakeModel, hugging_face, installed, register
from tests.trtllm_fake.invented import VOCAB, greedy, invented, wavering

TARGET = invented()
PROMPTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]


@pytest.fixture(params=list(SHAPES))
def shape(request):
    with installed(request.param, threaded=False):
        yield SHAPES[request.param]


def part(name):
    return importlib.import_module(f"tensorrt_llm._torch.{name}")


@pytest.mark.parametrize("chain", [True, False])
@pytest.mark.parametrize("sees", ["text", "cache"])
@pytest.mark.parametrize("name", list(SHAPES))
def test_greedy_outputs_are_the_targets_own(name, sees, chain):
    with installed(name, threaded=False, drafter_sees=sees):
        bench = Bench(TARGET, wavering(TARGET), chain=chain)
        ids = [bench.add(prompt, max_tokens=20) for prompt in PROMPTS[:2]]
        bench.step(3)
        ids.append(bench.add(PROMPTS[2], max_tokens=20))
        bench.run()
        assert [bench.output(i) for i in ids] == [greedy(TARGET, prompt, 20) for prompt in PROMPTS]
        assert all(bench.reasons[i] == ["LENGTH"] for i in ids)
        # Rounds of several tokens, and rounds of one.
        assert set(bench.chunks[ids[0]][1:-1]) >= {1, 2}


def test_greedy_outputs_of_real_models_are_their_own(shape):
    target = tiny_llama()
    bench = Bench(hugging_face(target), hugging_face(noisy(target, 0.03)))
    i = bench.add([5, 6, 7, 8], max_tokens=12)
    bench.run()
    expected = target.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert bench.output(i) == expected[0, 4:].tolist()
    assert max(bench.output(i)) < TINY_VOCAB


@pytest.mark.parametrize("chain", [True, False])
def test_sampled_outputs_end(shape, chain):
    bench = Bench(TARGET, wavering(TARGET), chain=chain)
    ids = [
        bench.add(prompt, max_tokens=12, temperature=0.9, top_k=12, top_p=0.9, seed=i)
        for i, prompt in enumerate(PROMPTS)
    ]
    ids.append(bench.add([3, 3], max_tokens=12))
    bench.run()
    assert [len(bench.output(i)) for i in ids] == [12] * 4
    assert bench.output(ids[-1]) == greedy(TARGET, [3, 3], 12)
    assert not bench.errors


def test_a_run_with_joins_cancels_chunks_and_stops_keeps_the_books_of_the_kv_cache(shape):
    from tensorrt_llm.llmapi.llm_args import KvCacheConfig

    small = KvCacheConfig(max_tokens=10_000, tokens_per_block=4)
    bench = Bench(
        TARGET,
        wavering(TARGET),
        kv_cache_config=small,
        enable_chunked_prefill=True,
        max_num_tokens=24,
        max_batch_size=3,
    )
    asked = {}
    for n, length in enumerate((30, 5, 41, 9, 17, 3)):
        prompt = [(7 * n + 3 * i) % VOCAB for i in range(length)]
        expected = greedy(TARGET, prompt, 14)
        i = bench.add(prompt, max_tokens=14, end_id=expected[9] if n % 2 else -1)
        asked[i] = expected[: expected.index(expected[9]) + 1] if n % 2 else expected
        bench.step(2)
        if n == 3:
            bench.cancel(i)
    bench.run()
    cancelled = [i for i, reasons in bench.reasons.items() if reasons == ["CANCELLED"]]
    assert cancelled == [4]
    assert bench.output(4) == asked[4][: len(bench.output(4))]
    assert {i: bench.output(i) for i in asked if i != 4} == {i: tokens for i, tokens in asked.items() if i != 4}
    assert {reasons[0] for reasons in bench.reasons.values()} == {"LENGTH", "END_ID", "CANCELLED"}
    assert not bench.executor.active_requests


def test_the_creator_calls_the_name_that_it_knows_and_makes_one_sampler_for_two_executors(shape, monkeypatch):
    creator = part("pyexecutor.py_executor_creator")
    from tensorrt_llm.llmapi.llm_args import KvCacheConfig

    made, served, executors = [], [], []
    original, assemble = creator.instantiate_sampler, creator.create_py_executor_instance

    def instantiate(*args, **kwargs):
        sampler = original(*args, **kwargs)
        update = sampler.update_requests
        sampler.update_requests = lambda state, manager=None: (
            served.extend(r.py_request_id for r in state.scheduled_requests.all_requests()),
            update(state, manager),
        )
        made.append((len(args), sorted(kwargs), sampler))
        return sampler

    monkeypatch.setattr(creator, "instantiate_sampler", instantiate)
    monkeypatch.setattr(
        creator, "create_py_executor_instance", lambda **kwargs: executors.append(assemble(**kwargs)) or executors[-1]
    )
    bench = Bench(TARGET, wavering(TARGET), kv_cache_config=KvCacheConfig())
    [(positional, keywords, sampler)] = made
    assert positional == 3
    assert len(keywords) == (8 if shape.since_1_2_0 else 7)
    assert [executor.sampler for executor in executors] == [sampler] * 2
    assert executors[0].drafter is executors[1].drafter is bench.executor.drafter
    # Ids begin anew: those of the requests that nobody sent come again.
    assert served == [1, 2]
    assert bench.add([1, 2]) == 1


def test_the_llm_generates_streams_and_aborts():
    async def ask(llm, params):
        stream = llm.generate_async([1, 2, 3], params, streaming=True)
        sizes = [len(output.outputs[0].token_ids_diff) async for output in stream]
        return stream, sizes

    with installed("s15"):
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import DraftTargetDecodingConfig

        register("target", TARGET)
        register("drafter", wavering(TARGET))
        config = DraftTargetDecodingConfig(max_draft_len=3, speculative_model_dir="drafter")
        with LLM("target", speculative_config=config, disable_overlap_scheduler=True, max_batch_size=4) as llm:
            expected = greedy(TARGET, [1, 2, 3], 16)
            first, second = llm.generate([[1, 2, 3], [4, 5]], SamplingParams(end_id=-1, max_tokens=16))
            assert first.outputs[0].token_ids == expected
            assert (first.finished, second.outputs[0].finish_reason) == (True, "length")
            stop = SamplingParams(end_id=-1, max_tokens=16, stop_token_ids=[expected[8]])
            stream, sizes = asyncio.run(ask(llm, stop))
            assert stream.outputs[0].token_ids == expected[: expected.index(expected[8])]
            assert (stream.outputs[0].finish_reason, stream.outputs[0].stop_reason) == ("stop", expected[8])
            assert max(sizes) > 1
            endless = llm.generate_async([1, 2], SamplingParams(end_id=-1, max_tokens=400), streaming=True)
            next(endless).abort()
            assert endless.result(timeout=30).outputs[0].finish_reason == "cancelled"
            several = llm.generate([1, 2, 3], SamplingParams(end_id=-1, max_tokens=8, n=2, temperature=1.0))
            assert [output.length for output in several.outputs] == [8, 8]


def test_the_llm_takes_no_arguments_that_it_does_not_know():
    with installed("s2", threaded=False):
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.llmapi import DraftTargetDecodingConfig

        register("target", TARGET)
        with pytest.raises(ValueError, match="invalid argument: max_drafts"):
            LLM("target", max_drafts=3)
        with pytest.raises(ValueError, match="extra_forbidden"):
            DraftTargetDecodingConfig(max_draft_len=3, speculative_models="drafter")
        with pytest.raises(ValueError, match="a draft model is required"):
            LLM("target", speculative_config=DraftTargetDecodingConfig(max_draft_len=3))
        with pytest.raises(FileNotFoundError, match="'elsewhere'"):
            LLM("elsewhere")
        with LLM("target", disable_overlap_scheduler=True) as llm:
            with pytest.raises(TypeError, match="lora_request"):
                llm.generate_async([1, 2], SamplingParams(end_id=0), True)
            with pytest.raises(ValueError, match="tokenizer is required"):
                llm.generate([1, 2])
        with pytest.raises(RuntimeError, match="shutting down"):
            llm.generate([1, 2], SamplingParams(end_id=0))
        with pytest.raises(TypeError, match="rule"):
            SamplingParams(rule="strict")


@pytest.mark.parametrize("single", [True, False])
def test_a_carrier_is_pickled_on_its_way_unless_the_worker_is_the_callers_own_process(single, monkeypatch):
    with installed("s15", threaded=False):
        from tensorrt_llm import LLM, SamplingParams

        monkeypatch.setenv("TLLM_WORKER_USE_SINGLE_PROCESS", "1" if single else "0")
        register("target", TARGET)
        carrier = {"rule": "strict"}
        with LLM("target", disable_overlap_scheduler=True) as llm:
            output = llm.generate_async([1, 2, 3], SamplingParams(end_id=-1, max_tokens=9, logits_processor=carrier))
            engine = llm._executor.engine
            engine.step()
            [arrived] = engine.active_requests[0].py_logits_post_processors
            assert arrived == carrier
            assert (arrived is carrier) is single
            assert output.result().outputs[0].token_ids == greedy(TARGET, [1, 2, 3], 9)


def test_what_leaves_the_loop_reaches_everybody_who_waits():
    def rows(token_ids):
        if len(token_ids) > 6:
            raise KeyError("no such row")
        return TARGET.rows(token_ids)

    with installed("s15"):
        from tensorrt_llm import LLM, SamplingParams
        from tensorrt_llm.executor import RequestError
        from tensorrt_llm.llmapi import DraftTargetDecodingConfig

        register("target", TARGET)
        register("broken", FakeModel(rows=rows, vocab_size=VOCAB))
        params = SamplingParams(end_id=-1, max_tokens=9)
        with LLM("broken", disable_overlap_scheduler=True) as llm, pytest.raises(RequestError, match="no such row"):
            llm.generate([1, 2, 3], params)
        config = DraftTargetDecodingConfig(max_draft_len=3, speculative_model="broken")
        with LLM("target", speculative_config=config, disable_overlap_scheduler=True) as llm:
            for _ in range(2):
                with pytest.raises(KeyError, match="no such row"):
                    llm.generate([1, 2, 3], params)
