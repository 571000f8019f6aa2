"""One model twice: on the ragged path and in fixed shapes; on a CPU or a GPU."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.loop import DecodingLoop
from spec_cascade.decoding.models import Feed
from spec_cascade.decoding.policy import DraftPolicy, PolicySettings
from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.scheduler import Scheduler
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.decoding.stop import StopConditions
from spec_cascade.engines.pytorch.drafters import ModelDrafter
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.rules import parse_rule
from tests.tiny import under_our_attention
from tests.unit.engines.test_families import FAMILIES, VOCAB, model_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spec_cascade.engines.pytorch.static import Shape, StaticSteps

SLOTS = 6
MAX_SEQ_LEN = 300


def family_model(family: str) -> PreTrainedModel:
    return model_of(family, **{**FAMILIES[family], "max_position_embeddings": 512})


def cached(
    model: PreTrainedModel,
    *,
    static: bool,
    slots: int = SLOTS,
    max_seq_len: int = MAX_SEQ_LEN,
    device: torch.device | str = "cpu",
) -> CachedModel:
    return CachedModel(under_our_attention(model, device), slots=slots, max_seq_len=max_seq_len, static=static)


class Twins:
    """The ragged path and the static path of one model, fed alike; every forward is compared."""

    def __init__(self, model: PreTrainedModel, device: torch.device | str = "cpu") -> None:
        self.ragged = cached(model, static=False, device=device)
        self.static = cached(model, static=True, device=device)
        self.lengths = self.ragged.cache.lengths
        self._device = device
        self._random = random.Random(0)

    @property
    def steps(self) -> StaticSteps:
        assert self.static.steps is not None
        return self.static.steps

    def token_ids(self, count: int) -> list[int]:
        return [self._random.randrange(VOCAB) for _ in range(count)]

    def forward(self, feeds: list[Feed]) -> None:
        expected = self.ragged.forward(feeds)
        got = self.static.forward(feeds)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)
        # A tie may fall either way.
        best = expected.topk(2).values
        clear = best[:, 0] - best[:, 1] > 1e-3
        assert torch.equal(got.argmax(-1)[clear], expected.argmax(-1)[clear])
        assert self.static.cache.lengths == self.lengths

    def decode(self, known: dict[int, int], drafted: dict[int, int], *, rows: int | None = None) -> Shape:
        """A decode step: so many known and drafted tokens of each slot."""
        feeds = []
        for slot, count in known.items():
            drafts = torch.tensor(self.token_ids(drafted[slot])).to(self._device) if drafted.get(slot) else None
            wanted = drafted.get(slot, 0) + 1 if rows is None else rows
            feeds.append(Feed(slot, self.token_ids(count), rows=wanted, drafted=drafts))
        shape = self.steps.shape(feeds)
        assert shape is not None
        self.forward(feeds)
        return shape

    def truncate(self, slot: int, length: int) -> None:
        self.ragged.truncate(slot, length)
        self.static.truncate(slot, length)

    def move(self, source: int, destination: int) -> None:
        self.ragged.move(source, destination)
        self.static.move(source, destination)

    def live_through(self, rounds: int) -> None:
        """Sequences of all lengths, even and uneven steps, roll-backs, one that goes and one that comes."""
        # Prompts of very different lengths: one of them ends in the second bucket of keys.
        self.forward([Feed(slot, self.token_ids(n), rows=1) for slot, n in enumerate((3, 270, 1, 9))])
        everyone = dict.fromkeys(range(4), 1)
        for _ in range(rounds):
            self.decode(everyone, {})
            self.decode(everyone, dict.fromkeys(range(4), 4))
            for slot in range(4):
                self.truncate(slot, self.lengths[slot] - 3 - slot % 2)
        # A drafter's first step: some catch up by a token.
        self.decode({0: 1, 1: 2, 2: 1, 3: 2}, {}, rows=1)
        # Some slots only, drafts of several lengths, rows that nobody wants.
        self.decode({0: 1, 3: 1}, {3: 2})
        self.decode({1: 1, 2: 1, 3: 1}, {1: 3, 3: 1})
        self.forward([Feed(0, self.token_ids(1), rows=0), Feed(2, self.token_ids(1), rows=1)])
        # One goes, the last takes its slot, a new one comes into the slot that was left.
        self.truncate(1, 0)
        self.move(3, 1)
        self.truncate(3, 0)
        self.decode({0: 1, 1: 1, 2: 1}, dict.fromkeys(range(3), 2))
        self.forward([Feed(3, self.token_ids(5), rows=1)])
        self.decode(everyone, dict.fromkeys(range(4), 2))
        for slot, length in enumerate(self.lengths):
            kept = self.static.cache.keys[:, slot, :, :length]
            torch.testing.assert_close(kept, self.ragged.cache.keys[:, slot, :, :length], atol=1e-4, rtol=1e-4)


class StaticLoop:
    """The decoding loop over two models in fixed shapes, stepped by hand."""

    def __init__(
        self, target: PreTrainedModel, drafter: PreTrainedModel, *, slots: int = 4, device: torch.device | str = "cpu"
    ) -> None:
        vocab = target.config.vocab_size
        self.target = cached(target, static=True, slots=slots, device=device)
        self.draft_model = cached(drafter, static=True, slots=slots, device=device)
        self.scheduler = Scheduler(max_batch_size=slots, max_queue_size=1000)
        self.loop = DecodingLoop(
            self.target,
            ModelDrafter(self.draft_model, vocab_size=vocab, prefill_chunk=8),
            self.scheduler,
            StopConditions(frozenset(), MAX_SEQ_LEN),
            DraftPolicy(PolicySettings(max_draft_length=8)),
            prefill_chunk=8,
            vocab_size=vocab,
            device=torch.device(device),
        )

    def add(self, prompt: list[int], *, rule: str = "strict", draft_length: int = 4, **sampling: object) -> Sequence:
        params = SamplingParams(**sampling)  # type: ignore[arg-type]
        request = GenerationRequest(prompt_ids=tuple(prompt), sampling=params, draft_length=draft_length)
        sequence = Sequence(request=request, rule=parse_rule(rule), draft_length=draft_length, token_ids=list(prompt))
        self.scheduler.add(sequence)
        return sequence

    def run(self) -> int:
        """Rounds until nothing is left to do; how many there were."""
        rounds = 0
        while self.scheduler.running or self.scheduler.num_waiting:
            self.loop.step()
            rounds += 1
            assert rounds < 5000
        return rounds
