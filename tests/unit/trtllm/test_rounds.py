"""What can happen to a request between its first round and its last, with our sampler in the loop.

The fake checks the books of the KV cache after every round: what is committed in vain, or not committed, ends a test.
"""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.engines.tensorrt_llm import followed
from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from tests.trtllm_fake import SHAPES, Bench, FakeModel
from tests.trtllm_fake.invented import VOCAB, greedy, invented, wavering
from tests.trtllm_fake.stage import current
from tests.unit.trtllm.played import MODES, Played, look
from tests.unit.trtllm.playing import playing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from spec_cascade.engines.tensorrt_llm.decision import Turn

K = 3
TARGET = invented()
DRAFTER = wavering(TARGET)
LOSSY = "token_v3:alpha=0.6"
ANY_TEXT = [1, 2, 3]
WARM: dict[str, Any] = {"temperature": 1.0}


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> Iterator[str]:
    with playing(request.param):
        yield request.param


@pytest.fixture(params=["s15", "s2"])
def later(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the first shape cannot do."""
    with playing(request.param):
        yield request.param


@pytest.fixture
def newest() -> Iterator[str]:
    """Where shapes make no difference: the one of 1.2.1."""
    with playing("s15"):
        yield "s15"


def params(**asked: Any) -> CascadeParams:
    return CascadeParams(**{"seed": 5, **asked})


def alone(mode: str, prompt: Sequence[int], carried: CascadeParams, **asked: Any) -> list[int]:
    """What a request says that has no company."""
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(prompt, carried, **asked)
    played.run()
    return played.output(request)


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


def crowd() -> list[tuple[tuple[int, ...], CascadeParams, dict[str, Any]]]:
    """Requests of all kinds."""
    rules = ["strict", LOSSY, "chow:alpha=0.5", "drafter_only", "target_only", "margin:alpha=0.2"]
    kinds: list[dict[str, Any]] = [{}, WARM, {"temperature": 0.6, "top_k": 5}, {"temperature": 1.2, "top_p": 0.8}]
    return [
        (
            (1 + i, 2, *range(i)),
            CascadeParams(
                rule=rule,
                seed=10 + i,
                draft_length=[None, 1, 2, 0, None, 3][i],
                repetition_penalty=1.0 + (i == 1) * 0.3,
                bad_word_ids=((20,),) if i == 2 else (),
                log_probs=i == 5,
            ),
            {"max_tokens": 6 + 3 * i, **kinds[i % 4]},
        )
        for i, rule in enumerate(rules)
    ]


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
    assert "target_logits" in last.error
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


def test_a_round_fetches_once(newest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(TARGET, DRAFTER)
    asked = {"repetition_penalty": 1.2, "bad_word_ids": ((20,),), "min_tokens": 3, "end_ids": (7,)}
    for i in range(3):
        played.ask((4, i), params(rule=LOSSY, **asked), max_tokens=20, **WARM)
    played.bench.step(2)
    fetched: list[Any] = []
    from spec_cascade.verify.transfer import to_host

    for name, module in list(sys.modules.items()):
        if name.startswith("spec_cascade.") and getattr(module, "to_host", None) is to_host:
            monkeypatch.setattr(module, "to_host", lambda tensor: fetched.append(tensor) or to_host(tensor))
    played.bench.step()
    assert len(fetched) == 1
