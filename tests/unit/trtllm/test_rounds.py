"""What can happen to a request between its first round and its last, with our sampler in the loop.

The fake checks the books of the KV cache after every round: what is committed in vain, or not committed, ends a test.
"""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.verify import HostCopy
from tests.trtllm_fake.invented import VOCAB, greedy, invented, wavering
from tests.trtllm_fake.stage import current
from tests.unit.trtllm.played import (
    ANY_TEXT,
    DRAFTER,
    LOSSY,
    MODES,
    TARGET,
    WARM,
    K,
    Played,
    alone,
    crowd,
    look,
    params,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.engines.tensorrt_llm.decision import Turn


# Where a request ends.


@pytest.mark.parametrize("temperature", [None, 1.0])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_comes_behind_a_stop_in_the_middle_of_a_block(shape: str, mode: str, temperature: float | None) -> None:
    asked = {"max_tokens": 16, "temperature": temperature}
    # The drafter is of the target's opinion: blocks are long.
    played = Played(TARGET, TARGET, mode)
    request = played.ask(ANY_TEXT, params(rule=LOSSY), **asked)
    played.run()
    free = played.output(request)
    stops: dict[int, tuple[int, str]] = {}
    played = Played(TARGET, TARGET, mode)
    for number in range(1, 9):
        token = free[number - 1]
        ending = played.ask(ANY_TEXT, params(rule=LOSSY), end_id=token, **asked)
        stops[ending] = (free.index(token) + 1, "END_ID")
        ending = played.ask(ANY_TEXT, params(rule=LOSSY), stop_words=[[VOCAB, 1, 2], [token]], **asked)
        stops[ending] = (free.index(token) + 1, "STOP_WORDS")
        # A word of two tokens, whose first one may be in another block, or in the prompt.
        text = [*ANY_TEXT, *free]
        word = text[number + 1 : number + 3]
        ending = played.ask(ANY_TEXT, params(rule=LOSSY), stop_words=[word], **asked)
        first = next(n for n in range(1, 17) if text[n + 1 : n + 3] == word)
        stops[ending] = (first, "STOP_WORDS")
    played.run()
    for ending, (length, reason) in stops.items():
        assert played.output(ending) == free[:length]
        assert played.bench.reasons[ending] == [reason]
    assert {length % (K + 1) for length, _ in stops.values()} >= {0, 1, 2}


@pytest.mark.parametrize("mode", MODES)
def test_a_request_has_as_many_tokens_as_it_may_have(shape: str, mode: str) -> None:
    played = Played(TARGET, TARGET, mode)
    requests = {length: played.ask(ANY_TEXT, params(), max_tokens=length) for length in range(1, 10)}
    warm = {length: played.ask((4, 5), params(rule=LOSSY), max_tokens=length, **WARM) for length in range(1, 10)}
    played.run()
    for length, request in requests.items():
        assert played.output(request) == greedy(TARGET, ANY_TEXT, length)
        assert len(played.output(warm[length])) == length
        assert played.bench.reasons[request] == ["LENGTH"]
        # Nothing is judged that could not be emitted.
        gained = [len(block.token_ids) for block in played.blocks(request)]
        assert sum(gained) == length


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("room", [1, 2, 3, 4, 6, 9])
def test_a_request_ends_with_the_targets_window(newest: str, mode: str, room: int) -> None:
    target = invented(max_seq_len=len(ANY_TEXT) + room)
    played = Played(target, target, mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=50)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, room)
    assert played.bench.reasons[request] == ["LENGTH"]
    assert sum(len(block.token_ids) for block in played.blocks(request)) == room


@pytest.mark.parametrize("mode", MODES)
def test_a_request_outlives_its_drafters_window(newest: str, mode: str) -> None:
    played = Played(TARGET, wavering(TARGET, max_seq_len=11), mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=20)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 20)
    assert played.drafted(request)[-3:] == [0, 0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_who_is_cancelled_between_rounds_keeps_what_he_has_and_leaves_nothing(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode, max_batch_size=2)
    dropped = played.ask(ANY_TEXT, params(), max_tokens=40, **WARM)
    staying = played.ask((4, 5), params(), max_tokens=20, **WARM)
    waiting = played.ask((6, 7), params(), max_tokens=6, **WARM)
    played.bench.step(3)
    played.bench.cancel(dropped)
    played.run()
    assert played.bench.reasons == {dropped: ["CANCELLED"], waiting: ["LENGTH"], staying: ["LENGTH"]}
    gained = [token for block in played.blocks(dropped) for token in block.token_ids]
    assert played.output(dropped) == gained
    assert len(gained) < 40
    assert played.output(staying) == alone(mode, (4, 5), params(), max_tokens=20, **WARM)
    assert played.output(waiting) == alone(mode, (6, 7), params(), max_tokens=6, **WARM)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_kept_of_who_has_ended(newest: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    for i in range(3):
        played.ask((4, i), params(), max_tokens=5 + i, **WARM)
    played.bench.step(2)
    drafts = played.sampler._drafts
    assert len(drafts._followed) == 3
    played.run()
    gc.collect()
    # TensorRT-LLM's drafter itself still knows those of its last round.
    assert set(drafts._followed) <= {3}
    assert (drafts._rows, drafts._tokens) == ({}, {})


# Company.


@pytest.mark.parametrize("mode", MODES)
def test_a_request_says_what_it_says_whatever_company_it_has(shape: str, mode: str) -> None:
    arguments: dict[str, Any] = {"max_batch_size": 4}
    if shape == "s15":
        from tensorrt_llm.llmapi.llm_args import CudaGraphConfig

        # Rows behind those of the batch are nobody's.
        arguments["cuda_graph_config"] = CudaGraphConfig(batch_sizes=[4], enable_padding=True)
    played = Played(TARGET, DRAFTER, mode, **arguments)
    add = played.bench.add
    strangers = [add((7, 7, 7), max_tokens=12, logprobs=1, **WARM)]
    asked = []
    # They come one by one and share few slots.
    for prompt, carried, wanted in crowd():
        played.bench.step()
        asked.append(played.ask(prompt, carried, **wanted))
    strangers.append(add((8, 8), max_tokens=12, logprobs=1))
    strangers.append(add((3, 2, 1), max_tokens=12, embedding_bias=torch.full((1, VOCAB), 0.5)))
    played.run()
    for request, (prompt, carried, wanted) in zip(asked, crowd(), strict=True):
        assert played.output(request) == alone(mode, prompt, carried, **wanted)
    assert [len(played.output(stranger)) for stranger in strangers] == [12, 12, 12]
    assert played.output(strangers[1]) == greedy(TARGET, (8, 8), 12)


@pytest.mark.parametrize("mode", MODES)
def test_ranks_decide_the_same(newest: str, mode: str) -> None:
    ranks = [Played(TARGET, DRAFTER, mode, max_batch_size=4) for _ in range(2)]
    rounds: list[list[dict[int, list[int]]]] = [[], []]
    for rank, played in enumerate(ranks):
        for prompt, carried, wanted in crowd():
            played.ask(prompt, carried, **wanted)
        # The second one is told nothing and tells nothing, as ranks beyond the first are.
        if rank == 1:
            played.sampler._report = lambda _: None

        def spy(state: Any, *_: Any, rank: int = rank) -> None:
            blocks = state.spec_cascade.decided.blocks
            rounds[rank].append({i: block.token_ids for i, block in blocks.items()})

        look(played.sampler, "update_requests", spy)
    for _ in range(25):
        for played in ranks:
            played.bench.step()
    assert rounds[0] == rounds[1]
    assert sum(map(len, rounds[0])) > 20
    assert ranks[1].reports == {}
    assert all(ranks[0].output(i) == ranks[1].output(i) for i in range(1, 7))


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_in_chunks_is_a_prompt(shape: str, mode: str) -> None:
    from tensorrt_llm.llmapi.llm_args import KvCacheConfig

    played = Played(
        TARGET,
        DRAFTER,
        mode,
        enable_chunked_prefill=True,
        max_num_tokens=12,
        kv_cache_config=KvCacheConfig(max_tokens=100_000, tokens_per_block=4),
    )
    chunks: list[int] = []
    look(
        played.bench.executor,
        "_forward_step",
        lambda batch: chunks.extend(each.context_chunk_size for each in batch.context_requests),
    )
    unfinished: list[Turn] = []

    def spy(turns: Sequence[Turn]) -> None:
        prompts = [turn for turn in turns if turn.rows.request.is_context_init_state]
        unfinished.extend(turn for turn in prompts if not turn.rows.request.is_last_context_chunk)

    played.watch(spy)
    first = played.ask((4, 5), params(rule=LOSSY), max_tokens=30, **WARM)
    played.bench.step(2)
    long = played.ask(range(1, 22), params(rule=LOSSY), max_tokens=9, **WARM)
    played.run()
    assert len(chunks) > 3
    assert unfinished == []
    assert played.output(first) == alone(mode, (4, 5), params(rule=LOSSY), max_tokens=30, **WARM)
    assert played.output(long) == alone(mode, range(1, 22), params(rule=LOSSY), max_tokens=9, **WARM)
    assert played.drafted(long)[1] == K


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sees", ["text", "cache"])
@pytest.mark.parametrize("finishes", [True, False])
def test_what_the_drafter_has_seen_is_its_own_affair(
    shape: str, mode: str, sees: str, finishes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(current(), "drafter_sees", sees)
    monkeypatch.setattr(current(), "finish_chunks", finishes)
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(ANY_TEXT, params(), max_tokens=16)
    played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 16)
    assert played.drafted(request)[1] == K


@pytest.mark.parametrize("mode", MODES)
def test_copies_to_the_host_may_have_a_thread_of_their_own(later: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode, sampler_force_async_worker=True)
    played.sampler.async_worker_start()
    request = played.ask(ANY_TEXT, params(), max_tokens=12, **WARM)
    played.run()
    played.sampler.async_worker_stop()
    assert played.output(request) == alone(mode, ANY_TEXT, params(), max_tokens=12, **WARM)


# What is told of it.


@pytest.mark.parametrize("mode", MODES)
def test_blocks_add_up_to_what_was_emitted(shape: str, mode: str) -> None:
    played = Played(TARGET, DRAFTER, mode)
    asked = [played.ask(prompt, carried, end_id=11, **wanted) for prompt, carried, wanted in crowd()]
    indices: list[list[int]] = []
    executor = played.bench.executor
    look(
        executor,
        "_handle_responses",
        lambda: indices.extend(each.py_num_accepted_draft_tokens_indices for each in executor.active_requests),
    )
    played.run()
    for request in asked:
        blocks = played.blocks(request)
        gained = [token for block in blocks for token in block.token_ids]
        output = played.output(request)
        assert output == gained[: len(output)]
        # One round, one response; what is told beyond the end is told of the last round alone.
        assert len(blocks) == len(played.bench.chunks[request])
        assert len(gained) - len(output) < len(blocks[-1].token_ids)
        for block in blocks:
            assert 0 <= block.accepted <= block.drafted <= K
            assert len(block.deferred) == block.drafted
            assert bool(block.verifier) == bool(block.drafted)
    assert [] not in [played.blocks(request) for request in asked]
    # Which ones were accepted is told for trees alone: it would have the KV cache rearranged.
    assert not any(indices)


@pytest.mark.parametrize("mode", MODES)
def test_finding_out_how_much_memory_there_is_leaves_nothing(shape: str, mode: str) -> None:
    from tensorrt_llm.llmapi.llm_args import KvCacheConfig

    played = Played(TARGET, DRAFTER, mode, kv_cache_config=KvCacheConfig())
    # Its requests were served, by another executor and under ids that come again.
    assert type(played.sampler).__name__ == "CascadeSampler"
    gc.collect()
    drafts = played.sampler._drafts
    assert (dict(drafts._followed), drafts._rows, drafts._tokens) == ({}, {}, {})
    assert played.reports == {}
    request = played.ask((4, 5), params(), max_tokens=12, **WARM)
    assert request == 1
    played.run()
    assert played.output(request) == alone(mode, (4, 5), params(), max_tokens=12, **WARM)


@pytest.mark.parametrize("mode", MODES)
def test_a_round_waits_for_one_copy_and_for_none_while_it_drafts(
    newest: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    played = Played(TARGET, DRAFTER, mode)
    asked = {"repetition_penalty": 1.2, "bad_word_ids": ((20,),), "min_tokens": 3, "end_ids": (7,)}
    for i in range(3):
        played.ask((4, i), params(rule=LOSSY, **asked), max_tokens=20, **WARM)
    played.bench.step(2)
    waited: list[str] = []
    sample, get = type(played.sampler).sample_async, HostCopy.get

    def sample_async(sampler: Any, scheduled: Any, *args: Any, **kwargs: Any) -> Any:
        whose = "drafter's" if scheduled.all_requests()[0].py_is_draft else "target's"
        monkeypatch.setattr(HostCopy, "get", lambda copy: waited.append(whose) or get(copy))
        state = sample(sampler, scheduled, *args, **kwargs)
        monkeypatch.setattr(HostCopy, "get", get)
        return state

    monkeypatch.setattr(type(played.sampler), "sample_async", sample_async)
    played.bench.step()
    assert waited == ["target's"]
