"""The engine in its own thread: failures, ends and closes in every phase of a request's life."""

from __future__ import annotations

import time
from threading import Event, Thread
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.decoding.request import FinishReason, GenerationRequest, RoundOutput, TokenSource
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import EngineError
from tests.faults import FaultyEngine, faulty_engine
from tests.tiny import VOCAB, standing_still, tiny_llama
from tests.unit.engines.greedy import ends_in_tie, generated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.engines.protocol import Generation

PHASES = ["waiting", "prompt", "drafting", "scoring", "running"]
FAILURES = [RuntimeError("planned"), torch.OutOfMemoryError("planned")]
LONG = 150


@pytest.fixture
def faulty() -> Iterator[FaultyEngine]:
    """One slot, short chunks, fixed drafts."""
    made = faulty_engine(slots=1, prefill_chunk=4, draft_length=3)
    yield made
    made.engine.close()


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def request(
    length: int = 6, *, seed: int = 0, max_tokens: int = LONG, timeout_ms: int | None = None
) -> GenerationRequest:
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    return GenerationRequest(prompt_ids=prompt(length, seed), sampling=sampling, timeout_ms=timeout_ms)


def tokens(outputs: list[RoundOutput]) -> list[int]:
    return [t for output in outputs for t in output.token_ids]


def is_targets_own(of: GenerationRequest, output: list[int], *, complete: bool = True) -> bool:
    expected = generated(tiny_llama(), list(of.prompt_ids), of.sampling.max_tokens if complete else len(output))
    return output == expected or ends_in_tie(tiny_llama(), list(of.prompt_ids), output, expected)


def assert_empty(faulty: FaultyEngine) -> None:
    """Nothing is held; asked a little later, since a last chunk is sent before its round is over."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        statistics = faulty.engine.statistics()
        if statistics.num_running == statistics.num_waiting == faulty.cached_tokens == 0:
            return
        time.sleep(0.01)
    pytest.fail(f"{statistics}, {faulty.cached_tokens} cached tokens")


class Held:
    """An engine whose loop stands still in a given phase of its first request's life until it is let go."""

    def __init__(self, faulty: FaultyEngine, phase: str) -> None:
        self.reached, self.go, self._count = Event(), Event(), 0
        model = faulty.drafter if phase == "drafting" else faulty.target
        # The prompt of 21 tokens takes six chunks, the one of 6 takes two.
        self._at = {"prompt": 3, "drafting": 2, "scoring": 3, "waiting": 3, "running": 6}[phase]
        model.before = self._wait
        self.request = request(21 if phase == "prompt" else 6)
        self.generations = [faulty.engine.submit(self.request)]
        if phase == "waiting":
            self.generations.append(faulty.engine.submit(request(6, seed=1)))
        assert self.reached.wait(30)

    def _wait(self) -> None:
        self._count += 1
        if self._count == self._at:
            self.reached.set()
            assert self.go.wait(30)


@pytest.mark.parametrize("error", FAILURES, ids=["raises", "memory"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_failing_drafter_loses_no_request_and_drafts_again_after_its_rest(error: Exception, after: int) -> None:
    faulty = faulty_engine(slots=3, draft_length=3)
    try:
        requests = [request(5 + 20 * i, seed=i, max_tokens=110 + 5 * i) for i in range(3)]
        with standing_still(faulty.engine):
            generations = [faulty.engine.submit(each) for each in requests]
            # Behind some rounds that drafted, and in one forward or another of a block.
            faulty.drafter.fail(error, after=12 + after)
        outputs = [list(generation) for generation in generations]
        rest = faulty.engine._loop.policy.settings.pause_rounds
        for each, got in zip(requests, outputs, strict=True):
            assert got[-1].finish_reason is FinishReason.LENGTH
            assert is_targets_own(each, tokens(got))
            plain = [chunk.sources == (TokenSource.TARGET,) for chunk in got]
            assert longest_run(plain) >= rest
            assert TokenSource.DRAFTER in [source for chunk in got[-8:] for source in chunk.sources]
        assert faulty.engine.statistics().num_drafter_failures == faulty.drafter.num_raised == 1
        assert_empty(faulty)
    finally:
        faulty.engine.close()


def longest_run(flags: list[bool]) -> int:
    """Of true ones."""
    longest = current = 0
    for flag in flags:
        current = current + 1 if flag else 0
        longest = max(longest, current)
    return longest


def test_a_failing_target_ends_what_runs_and_nothing_else(faulty: FaultyEngine) -> None:
    held = Held(faulty, "waiting")
    faulty.target.fail(RuntimeError("a secret path"))
    held.go.set()
    running, waiting = (list(generation) for generation in held.generations)
    assert running[-1].finish_reason is FinishReason.ERROR
    assert running[-1].error is not None
    assert "secret" not in running[-1].error
    assert is_targets_own(held.request, tokens(running), complete=False)
    assert waiting[-1].finish_reason is FinishReason.LENGTH
    assert is_targets_own(request(6, seed=1), tokens(waiting))
    assert_empty(faulty)


@pytest.mark.parametrize("phase", PHASES)
def test_close_ends_every_generation_and_the_thread_whatever_the_phase(phase: str, faulty: FaultyEngine) -> None:
    held = Held(faulty, phase)
    closers = [Thread(target=faulty.engine.close) for _ in range(2)]
    for closer in closers:
        closer.start()
    while not faulty.engine._closing:
        time.sleep(0.001)
    held.go.set()
    for closer in closers:
        closer.join(30)
        assert not closer.is_alive()
    assert not faulty.engine._thread.is_alive()
    for generation in held.generations:
        assert list(generation)[-1].finish_reason is FinishReason.CANCELLED
    assert_empty(faulty)
    with pytest.raises(EngineError, match="closed"):
        faulty.engine.submit(request())
    faulty.engine.close()


def test_a_request_takes_a_block_of_the_cache_until_it_ends(faulty: FaultyEngine) -> None:
    held = Held(faulty, "running")
    assert held.reached.wait(30)
    kv = faulty.engine.statistics().kv
    assert (kv.tokens_per_block, kv.num_used_blocks, kv.num_blocks) == (faulty.engine.limits.max_seq_len, 1, 1)
    assert kv.num_tokens == sum(faulty.target.cache.lengths) > 6
    held.generations[0].cancel()
    held.go.set()
    assert list(held.generations[0])[-1].finish_reason is FinishReason.CANCELLED
    assert_empty(faulty)
    kv = faulty.engine.statistics().kv
    assert (kv.num_used_blocks, kv.num_blocks, kv.num_tokens) == (0, 1, 0)


def test_an_idle_engine_closes(faulty: FaultyEngine) -> None:
    faulty.engine.close()
    assert not faulty.engine._thread.is_alive()
    assert_empty(faulty)


@pytest.mark.parametrize("phase", PHASES)
def test_a_cancelled_request_ends_in_whatever_phase_and_others_go_on(phase: str, faulty: FaultyEngine) -> None:
    held = Held(faulty, phase)
    cancelled = held.generations[-1]
    cancelled.cancel()
    cancelled.cancel()
    held.go.set()
    outputs = list(cancelled)
    assert outputs[-1].finish_reason is FinishReason.CANCELLED
    assert len(tokens(outputs)) < LONG
    if phase in ("waiting", "prompt"):
        assert tokens(outputs) == []
    elif phase == "running":
        assert is_targets_own(held.request, tokens(outputs), complete=False)
    later = request(9, seed=2, max_tokens=20)
    assert is_targets_own(later, tokens(list(faulty.engine.submit(later))))
    for generation in held.generations[:-1]:
        assert is_targets_own(held.request, tokens(list(generation)))
    assert_empty(faulty)


@pytest.mark.parametrize("phase", ["waiting", "prompt", "running"])
def test_a_request_out_of_time_ends_with_what_it_has(phase: str, faulty: FaultyEngine) -> None:
    faulty.target.before = lambda: time.sleep(0.05)
    company: list[Generation] = []
    if phase == "waiting":
        company.append(faulty.engine.submit(request(6, max_tokens=60)))
    timeout_ms = 1000 if phase == "running" else 250
    late = request(120 if phase == "prompt" else 6, seed=1, timeout_ms=timeout_ms, max_tokens=120)
    outputs = list(faulty.engine.submit(late))
    assert outputs[-1].finish_reason is FinishReason.TIMEOUT
    assert outputs[-1].error is None
    if phase == "running":
        assert 0 < len(tokens(outputs)) < 120
        assert is_targets_own(late, tokens(outputs), complete=False)
    else:
        assert tokens(outputs) == []
    for generation in company:
        assert list(generation)[-1].finish_reason is FinishReason.LENGTH
    assert_empty(faulty)


def test_a_client_that_never_reads_stalls_nobody(faulty: FaultyEngine) -> None:
    silent = faulty.engine.submit(request(6, seed=1))
    faulty.engine.submit(request(6, seed=2))
    prompt_reader = request(6, seed=3, max_tokens=20)
    assert is_targets_own(prompt_reader, tokens(list(faulty.engine.submit(prompt_reader))))
    assert len(tokens(list(silent))) == LONG
    assert_empty(faulty)
