"""Decode steps in fixed shapes give the logits of the ragged path, and nothing in them asks the device.

CUDA graphs need a GPU, but what they stand on does not: `Tape` records the operations of a step and repeats them
without any Python, as a graph does, so whatever the host would have to decide anew shows as wrong logits.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spec_cascade.decoding.models import Feed
from spec_cascade.engines.pytorch.capturable import AsksDeviceError, check_capturable
from spec_cascade.engines.pytorch.graphs import Graphs
from spec_cascade.engines.pytorch.static import Shape
from spec_cascade.errors import EngineError
from tests.tiny import VOCAB as TINY_VOCAB
from tests.tiny import noisy, tiny_llama
from tests.unit.engines.greedy import ends_in_tie, generated
from tests.unit.engines.test_families import FAMILIES, VOCAB
from tests.unit.engines.twins import MAX_SEQ_LEN, StaticLoop, Twins, cached, family_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class Tape:
    """A stand-in for a CUDA graph: the operations of a piece of work, repeated on the same memory."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        with _Recorder(self._calls):
            work()

    def replay(self) -> None:
        for function, args, kwargs, results in self._calls:
            again = function(*args, **kwargs)
            inputs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if is_tensor(leaf)}
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                # Views and in-place results are where they were.
                if is_tensor(old) and old.untyped_storage().data_ptr() not in inputs:
                    old.copy_(new)


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[tuple[Any, Any, Any, Any]]) -> None:
        super().__init__()
        self._calls = calls

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        results = function(*args, **(kwargs or {}))
        self._calls.append((function, args, kwargs or {}, results))
        return results


def is_tensor(leaf: object) -> bool:
    return isinstance(leaf, torch.Tensor)


@pytest.mark.parametrize("family", FAMILIES)
def test_steps_of_fixed_shape_give_the_logits_of_the_ragged_path(family: str) -> None:
    Twins(family_model(family)).live_through(rounds=2)


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "Phi", "Mixtral"])
def test_a_step_repeated_without_the_host_gives_them_too(family: str) -> None:
    twins = Twins(family_model(family))
    graphs = twins.steps.graphs = Graphs(Tape, patience=0)
    twins.live_through(rounds=3)
    # The choice of experts is made on the host: that model runs its steps as they are.
    asks = family == "Mixtral"
    assert ("needs an answer from the device" in graphs.failure) == asks
    assert bool(len(graphs)) != asks


def test_greedy_output_over_static_steps_is_the_targets_own() -> None:
    target = tiny_llama(layers=2)
    loop = StaticLoop(target, noisy(target, 0.05), slots=3)
    for model in (loop.target, loop.draft_model):
        assert model.steps is not None
        model.steps.graphs = Graphs(Tape)
    generator = torch.Generator().manual_seed(3)
    prompts = [torch.randint(0, TINY_VOCAB, (1 + 7 * i % 23,), generator=generator).tolist() for i in range(6)]
    lengths = [5 + 11 * i % 17 for i in range(6)]
    sequences = [loop.add(p, temperature=0, max_tokens=n) for p, n in zip(prompts, lengths, strict=True)]
    loop.run()
    expected = [generated(target, prompt, n) for prompt, n in zip(prompts, lengths, strict=True)]
    ties = [ends_in_tie(target, p, s.output_ids, e) for p, s, e in zip(prompts, sequences, expected, strict=True)]
    assert sum(ties) <= 1
    assert all(len(model.steps.graphs or ()) for model in (loop.target, loop.draft_model) if model.steps is not None)


@pytest.mark.parametrize("family", ["Llama", "Gemma3Text", "Mistral"])
def test_a_sequence_may_fill_its_slot_to_the_last_token(family: str) -> None:
    twins = Twins(family_model(family))
    twins.forward([Feed(0, twins.token_ids(MAX_SEQ_LEN - 6), rows=1), Feed(1, twins.token_ids(2), rows=1)])
    shape = twins.decode({0: 1, 1: 1}, {0: 4, 1: 4})
    assert shape.keys == MAX_SEQ_LEN
    twins.decode({0: 1, 1: 1}, {})
    assert twins.lengths[0] == MAX_SEQ_LEN
    # The full slot is padding now, among slots that go on.
    twins.decode({1: 1}, {1: 4})
    for model in (twins.ragged, twins.static):
        with pytest.raises(EngineError, match=f"slot 0 would hold {MAX_SEQ_LEN + 1} tokens, the limit is"):
            model.forward([Feed(0, [1], rows=1)])


def test_growing_sequences_run_in_few_shapes() -> None:
    twins = Twins(family_model("Llama"))
    twins.forward([Feed(slot, twins.token_ids(200 + slot), rows=1) for slot in range(3)])
    shapes = set()
    for _ in range(16):
        shapes.add(twins.decode(dict.fromkeys(range(3), 1), dict.fromkeys(range(3), 4)))
    assert shapes == {Shape(4, 5, 5, 256), Shape(4, 5, 5, MAX_SEQ_LEN)}


@pytest.mark.parametrize(
    "feeds",
    [
        [(0, 5, 1)],
        [(0, 1, 1), (1, 7, 0)],
        [(5, 60, 60)],
    ],
    ids=["prompt", "prompt beside a step", "padding dearer than the tokens"],
)
def test_what_is_no_decode_step_runs_ragged(feeds: list[tuple[int, int, int]]) -> None:
    twins = Twins(family_model("Llama"))
    made = [Feed(slot, twins.token_ids(count), rows=rows) for slot, count, rows in feeds]
    assert twins.steps.shape(made) is None
    twins.forward(made)


def test_drafted_tokens_count_like_known_ones_on_the_ragged_path() -> None:
    one, other = (cached(family_model("Llama"), static=False) for _ in range(2))
    expected = one.forward([Feed(0, [1, 2, 3, 4], rows=4), Feed(1, [5], rows=1), Feed(2, [6, 7], rows=1)])
    drafted = torch.tensor([[2, 3, 4], [7, 0, 0]])
    got = other.forward(
        [
            Feed(0, [1], rows=4, drafted=drafted[0]),
            Feed(1, [5], rows=1, drafted=drafted[0, :0]),
            Feed(2, [6], rows=1, drafted=drafted[1, :1]),
        ]
    )
    assert torch.equal(got, expected)
    assert other.cache.lengths == [4, 1, 2, 0, 0, 0]


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Meta tensors have a shape and no numbers: asking for one is an error. They are how a GPU looks to the host.

    torch has no autocast for them; models only switch it off.
    """
    monkeypatch.setattr(torch, "autocast", lambda **_: nullcontext())


@pytest.mark.usefixtures("meta")
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Qwen3", "Gemma3Text", "Mistral", "Phi"])
def test_a_forward_needs_nothing_from_the_device(family: str, static: bool) -> None:
    model = cached(family_model(family), static=static, device="meta")
    assert model.forward([Feed(0, [1, 2, 3], rows=1), Feed(1, [4], rows=1)]).device.type == "meta"
    drafted = torch.zeros(2, 3, dtype=torch.long, device="meta")
    for _ in range(2):
        logits = model.forward([Feed(b, [5], rows=4, drafted=drafted[b]) for b in range(2)])
        assert logits.shape == (8, VOCAB)
        model.truncate(0, 5)
    model.move(1, 0)
    assert model.forward([Feed(0, [5], rows=1)]).shape == (1, VOCAB)


@pytest.mark.usefixtures("meta")
def test_a_round_is_drafted_and_scored_without_an_answer_from_the_device() -> None:
    loop = StaticLoop(tiny_llama(), tiny_llama(), device="meta")
    sequences = [loop.add([1, 2, 3], temperature=t) for t in (1.0, 0.7, 0.0)]
    loop.scheduler.admit()
    loop.target.forward([Feed(s.slot, [1, 2], rows=0) for s in sequences])
    with torch.inference_mode():
        proposal = loop.loop._draft(sequences)
        assert (proposal.token_ids.device.type, proposal.lengths) == ("meta", [4, 4, 4])
        scored = loop.loop._score(sequences, proposal)
    assert scored.logits.shape == (3, 5, TINY_VOCAB)


@pytest.mark.parametrize("static", [False, True])
def test_what_one_sequence_left_behind_cannot_harm_the_next(static: bool) -> None:
    model = cached(family_model("Llama"), static=static)
    clean = cached(family_model("Llama"), static=static)
    model.forward([Feed(slot, [1, 2, 3, 4, 5, 6], rows=1) for slot in range(3)])
    model.cache.values[:, 1, :, 4:6] = float("nan")
    model.truncate(1, 0)
    model.cache.values[:, 0, :, 5:6] = float("nan")
    model.move(2, 0)
    model.truncate(2, 0)
    model.truncate(0, 1)
    clean.forward([Feed(0, [1], rows=1)])
    feeds = [Feed(0, [2, 3, 4, 5, 6, 7], rows=2), Feed(1, [8], rows=1)]
    torch.testing.assert_close(model.forward(feeds), clean.forward(feeds), atol=1e-4, rtol=1e-4)
    feeds = [Feed(0, [7], rows=1), Feed(1, [8], rows=1)]
    torch.testing.assert_close(model.forward(feeds), clean.forward(feeds), atol=1e-4, rtol=1e-4)


class Counted:
    """Work on fixed memory that counts who does it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self.runs = 0

    def __call__(self) -> None:
        self.runs += 1
        self.tensor.add_(1)


def test_work_is_captured_when_it_has_come_back_often_enough_and_replayed_from_then_on() -> None:
    work, graphs = Counted(torch.zeros(1)), Graphs(Tape, patience=2)
    for _ in range(2):
        graphs.run("a", work)
    assert (work.runs, len(graphs)) == (2, 0)
    graphs.run("a", work)
    assert len(graphs) == 1
    runs, value = work.runs, float(work.tensor)
    for _ in range(5):
        graphs.run("a", work)
    assert (work.runs, float(work.tensor)) == (runs, value + 5)


def test_the_graph_that_was_not_used_for_longest_makes_room() -> None:
    works, graphs = {key: Counted(torch.zeros(1)) for key in "abc"}, Graphs(Tape, limit=2, patience=0)
    for key in "abac":
        graphs.run(key, works[key])
    assert len(graphs) == 2
    runs = {key: work.runs for key, work in works.items()}
    for key in "acb":
        graphs.run(key, works[key])
    assert {key: work.runs > runs[key] for key, work in works.items()} == {"a": False, "b": True, "c": False}


def test_work_that_cannot_be_captured_runs_as_it_is_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    tensor, graphs = torch.zeros(3), Graphs(Tape, patience=0)

    def work() -> None:
        tensor.add_(1)
        if tensor.sum() > 100:
            tensor.zero_()

    graphs.run("a", work)
    graphs.run("b", work)
    assert float(tensor[0]) == 3  # Once it was tried: the watch ended it behind the addition.
    assert len(graphs) == 0
    assert [record.getMessage() for record in caplog.records] == [
        "CUDA graphs are off, this model's forward cannot be captured: "
        "aten._local_scalar_dense.default needs an answer from the device"
    ]


@pytest.mark.parametrize(
    "work",
    [
        lambda x: x.max().item(),
        lambda x: bool(x.any()),
        lambda x: x[x > 2],
        lambda x: x.nonzero(),
        lambda x: torch.where(x > 2),
        lambda x: x.repeat_interleave(x),
        lambda x: x[x.max() :],
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_questions_to_the_device_are_seen(work: Callable[[Tensor], object], inference: bool) -> None:
    with torch.inference_mode(inference), pytest.raises(AsksDeviceError):
        check_capturable(partial(work, torch.arange(5)))


def test_indexing_by_numbers_is_no_question() -> None:
    numbers = torch.arange(5)

    def work() -> None:
        numbers.copy_(numbers[numbers.flip(0)])

    check_capturable(work)
    assert numbers.tolist() == [4, 3, 2, 1, 0]
