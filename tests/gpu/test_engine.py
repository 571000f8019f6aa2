"""The engine on a GPU: static steps as CUDA graphs, and rounds that wait for the device once."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.decoding.models import Feed
from spec_cascade.engines.pytorch.graphs import CudaCapture, Graphs
from spec_cascade.verify import to_device, to_host
from tests.tiny import VOCAB, noisy, tiny_llama
from tests.unit.engines.greedy import ends_in_tie, generated
from tests.unit.engines.test_families import FAMILIES
from tests.unit.engines.twins import StaticLoop, Twins, cached, family_model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


@contextmanager
def no_waiting() -> Iterator[None]:
    """Copies and questions that wait for the device are errors; a wait for an event, as `to_host` has it, is none."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


class Waits:
    """Counts how often the host waits for an event of the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = torch.cuda.Event.synchronize

        def synchronize(event: torch.cuda.Event) -> None:
            self.count += 1
            original(event)

        monkeypatch.setattr(torch.cuda.Event, "synchronize", synchronize)


def prompts_and_lengths(count: int) -> list[tuple[list[int], int]]:
    generator = torch.Generator().manual_seed(7)
    prompts = [torch.randint(0, VOCAB, (1 + 5 * i % 37,), generator=generator).tolist() for i in range(count)]
    return [(prompt, 4 + 13 * i % 57) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize("family", FAMILIES)
def test_graphs_give_the_logits_of_the_ragged_path(family: str) -> None:
    twins = Twins(family_model(family), device="cuda")
    graphs = twins.steps.graphs
    assert graphs is not None
    twins.live_through(rounds=6)
    # The choice of experts asks the device: that model runs its steps as they are, and nothing is left of the attempt.
    assert bool(graphs.failure) == (family == "Mixtral"), graphs.failure
    assert bool(len(graphs)) == (family != "Mixtral")


def test_a_capture_that_breaks_off_leaves_the_engine_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Let the capture itself find what the watch finds before it.
    monkeypatch.setattr("spec_cascade.engines.pytorch.graphs.check_capturable", lambda work: work())
    stream = torch.cuda.current_stream()
    twins = Twins(family_model("Mixtral"), device="cuda")
    with caplog.at_level(logging.WARNING):
        twins.live_through(rounds=6)
    assert twins.steps.graphs is not None
    assert len(twins.steps.graphs) == 0
    assert sum("CUDA graphs are off" in record.getMessage() for record in caplog.records) == 1
    assert torch.cuda.current_stream() == stream
    # Another model's captures still go well.
    after = Twins(family_model("Llama"), device="cuda")
    after.live_through(rounds=6)
    assert len(after.steps.graphs or ()) > 0


def test_the_targets_logits_stand_while_the_drafter_goes_on() -> None:
    target, drafter = (cached(family_model(family), static=True, device="cuda") for family in ("Llama", "Qwen3"))
    for model in (target, drafter):
        model.forward([Feed(slot, [1, 2, 3], rows=1) for slot in range(4)])
    for _ in range(6):
        logits = target.forward([Feed(slot, [5, 6, 7], rows=3) for slot in range(4)])
        kept = logits.clone()
        for length in (1, 2, 3):
            drafter.forward([Feed(slot, [5] * length, rows=length) for slot in range(4)])
        assert torch.equal(logits, kept)
        for slot in range(4):
            target.truncate(slot, 3)
            drafter.truncate(slot, 3)


def test_graphs_of_one_pool_do_not_disturb_each_other() -> None:
    graphs = Graphs(CudaCapture(torch.device("cuda")), patience=0)
    numbers = {n: torch.ones(n, device="cuda") for n in (1000, 5000, 20000)}

    def work(n: int) -> None:
        numbers[n].copy_((numbers[n] * 2).cumsum(0).clamp_max(10) + 1)

    for round_ in range(4):
        for n in numbers:
            graphs.run(n, lambda n=n: work(n))  # type: ignore[misc]
        if round_ == 0:
            # Capturing ran the work once more: only what follows is exact.
            for tensor in numbers.values():
                tensor.fill_(1)
    for n, tensor in numbers.items():
        expected = torch.ones(n)
        for _ in range(3):
            expected = (expected * 2).cumsum(0).clamp_max(10) + 1
        torch.testing.assert_close(tensor.cpu(), expected)


@pytest.mark.parametrize("noise", [0.05, 0.0])
def test_greedy_output_with_graphs_is_the_targets_own_while_requests_join_and_leave(noise: float) -> None:
    target = tiny_llama()
    loop = StaticLoop(target, noisy(target, noise), slots=8, device="cuda")
    asked = prompts_and_lengths(120)
    sequences = [loop.add(prompt, temperature=0, max_tokens=length) for prompt, length in asked]
    rounds = loop.run()
    assert rounds > 100
    for model in (loop.target, loop.draft_model):
        assert model.steps is not None
        assert model.steps.graphs is not None
        assert model.steps.graphs.failure == ""
        assert len(model.steps.graphs) > 0
    assert loop.loop.statistics().num_drafter_failures == 0
    ties = 0
    for (prompt, length), sequence in zip(asked, sequences, strict=True):
        ties += ends_in_tie(target, prompt, sequence.output_ids, generated(target, prompt, length))
    assert ties <= 3


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.0},
        {"temperature": 0.8},
        {"temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.05},
    ],
    ids=["greedy", "warm", "truncated", "min-p"],
)
@pytest.mark.parametrize("draft_length", [0, 4])
@pytest.mark.parametrize("rule", ["strict", "token_v3:alpha=0.8", "opt:alpha=0.1"])
def test_a_round_waits_for_the_device_once(
    sampling: dict[str, float], draft_length: int, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tiny_llama()
    loop = StaticLoop(target, noisy(target, 0.05), device="cuda")
    for _ in range(4):
        loop.add([1, 2, 3], rule=rule, draft_length=draft_length, max_tokens=200, **sampling)
    # Prompts, compilation of kernels, captures.
    for _ in range(12):
        loop.loop.step()
    assert len(loop.scheduler.running) == 4
    graphs = [model.steps.graphs for model in (loop.target, loop.draft_model) if model.steps is not None]
    for graph in graphs:
        # A capture waits for the device: what has come back too seldom so far stays as it is.
        assert graph is not None
        graph._patience = 10**6
    waits = Waits(monkeypatch)
    with no_waiting():
        for _ in range(10):
            loop.loop.step()
    assert waits.count == 10
    assert loop.loop.statistics().num_drafter_failures == 0
    verifiers = {s.statistics.verifier for s in loop.scheduler.running}
    assert verifiers == ({"fused"} if draft_length else {""})


def test_uploads_wait_for_nothing_and_arrive_whole() -> None:
    with no_waiting():
        sent = [to_device(list(range(i, i + 1000)), torch.long, "cuda") for i in range(200)]
        got = [to_host(tensor).tolist() for tensor in sent]
    assert got == [list(range(i, i + 1000)) for i in range(200)]


@pytest.mark.parametrize("static", [False, True])
def test_a_forward_waits_for_nothing(static: bool) -> None:
    model = cached(family_model("Gemma3Text"), static=static, device="cuda")
    drafted = torch.arange(6, device="cuda").view(2, 3)

    def rounds(count: int) -> None:
        for _ in range(count):
            model.forward([Feed(slot, [5, 6], rows=4, drafted=drafted[slot]) for slot in range(2)])
            for slot in range(2):
                model.truncate(slot, 3)

    model.forward([Feed(0, [1, 2, 3], rows=1), Feed(1, [1, 2, 3, 4], rows=1)])
    rounds(5)
    with no_waiting():
        rounds(5)
        # A prompt joins, and a sequence goes.
        model.forward([Feed(2, [1, 2, 3, 4, 5], rows=1), Feed(0, [1], rows=1)])
        model.move(2, 0)
        model.truncate(2, 0)
