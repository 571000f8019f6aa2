"""A decoding loop over tiny models, stepped by hand, with what must hold after every round."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import torch

from spec_cascade.decoding.loop import DecodingLoop
from spec_cascade.decoding.policy import DraftPolicy, PolicySettings
from spec_cascade.decoding.request import DEFAULT_PRIORITY, GenerationRequest, RoundOutput
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.scheduler import Scheduler
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.decoding.shaping import Shaping
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade.decoding.stop import StopConditions
from spec_cascade.engines.pytorch.drafters import ModelDrafter
from spec_cascade.rules import parse_rule
from tests.faults import FaultyModel
from tests.tiny import CPU, VOCAB, noisy, tiny_llama

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_SEQ_LEN = 96
CHUNK = 8


@cache
def target_model() -> PreTrainedModel:
    """The target that every bench copies."""
    return tiny_llama()


@cache
def draft_model(noise: float) -> PreTrainedModel:
    """A drafter that every bench of this noise copies."""
    return noisy(target_model(), noise)


class Bench:
    """The loop and its models; both fail on demand.

    Args:
        batch: Slots.
        queue: Requests that may wait.
        noise: What sets the drafter's weights apart from the target's.
        eos: The model's end tokens.
        fallback: Whether default draft lengths give way while drafts do not pay.
        argmax: Whether drafts are the argmax of their rows.
        confidence: Where drafting stops early.
        pause_rounds: Rounds without drafts after the drafter failed.
    """

    def __init__(
        self,
        *,
        batch: int = 4,
        queue: int = 16,
        noise: float = 0.05,
        eos: frozenset[int] = frozenset(),
        fallback: bool = False,
        argmax: bool = False,
        confidence: float = 0.0,
        pause_rounds: int = 64,
    ) -> None:
        self.target = FaultyModel(target_model(), slots=batch, max_seq_len=MAX_SEQ_LEN)
        self.draft_model = FaultyModel(draft_model(noise), slots=batch, max_seq_len=MAX_SEQ_LEN)
        self.scheduler = Scheduler(max_batch_size=batch, max_queue_size=queue)
        self.stop = StopConditions(eos, MAX_SEQ_LEN)
        self.loop = DecodingLoop(
            self.target,
            ModelDrafter(self.draft_model, vocab_size=VOCAB, prefill_chunk=CHUNK, argmax=argmax, confidence=confidence),
            self.scheduler,
            self.stop,
            DraftPolicy(PolicySettings(max_draft_length=8, fallback=fallback, pause_rounds=pause_rounds)),
            prefill_chunk=CHUNK,
            vocab_size=VOCAB,
            device=CPU,
        )

    def add(
        self,
        prompt: list[int],
        *,
        rule: str = "strict",
        draft_length: int = 4,
        ordered: bool = True,
        reproducible: bool = False,
        deadline: float | None = None,
        priority: float = DEFAULT_PRIORITY,
        **sampling: Any,
    ) -> Sequence:
        """Queue a request as the engine does; unless ``ordered``, its draft length is the engine's default."""
        request = GenerationRequest(
            prompt_ids=tuple(prompt),
            sampling=SamplingParams(**sampling),
            draft_length=draft_length if ordered else None,
            reproducible=reproducible,
            priority=priority,
        )
        parsed, params = parse_rule(rule), request.sampling
        sequence = Sequence(
            request=request,
            rule=parsed,
            draft_length=draft_length,
            token_ids=list(prompt),
            shaping=Shaping.of(params, prompt, bad_word_ids=(), end_ids=self.stop.end_ids(params)),
            deadline=deadline,
            statistics=RequestStatistics(rule=str(parsed), num_spec_tokens=draft_length),
        )
        self.scheduler.add(sequence)
        return sequence

    def step(self) -> None:
        """One round, and the invariants after it."""
        self.loop.step()
        self.check()

    def check(self) -> None:
        """Slots and caches are those of the committed tokens."""
        running = self.scheduler.running
        assert [s.slot for s in running] == list(range(len(running)))
        rested = self.loop.statistics().num_drafter_failures > 0
        for sequence in running:
            committed = len(sequence.token_ids) - 1
            seen = self.target.length(sequence.slot)
            drafted = self.draft_model.length(sequence.slot)
            assert drafted <= committed
            if sequence.num_emitted:
                assert seen == committed
                if sequence.speculates and not rested:
                    assert committed - 1 <= drafted
            else:
                assert seen % CHUNK == 0
                assert seen <= committed
        self.check_free(range(len(running), len(self.target.cache.lengths)))

    def check_free(self, slots: range) -> None:
        """Nothing is left in these slots: neither a length, nor a key or value that a later reader could meet."""
        for model in (self.target, self.draft_model):
            assert all(model.length(slot) == 0 for slot in slots)
            for stored in (model.cache.keys, model.cache.values):
                assert not stored[:, slots.start : slots.stop].any()

    def run(self) -> None:
        """Until everything has ended."""
        for _ in range(500):
            if not self.scheduler.running and not self.scheduler.num_waiting:
                return
            self.step()
        pytest.fail("the loop does not come to an end")


def drained(sequence: Sequence) -> list[RoundOutput]:
    """The chunks that were sent and not yet read."""
    outputs = []
    while not sequence.outputs.empty():
        outputs.append(sequence.outputs.get())
    return outputs


def tokens(outputs: list[RoundOutput]) -> list[int]:
    """The tokens of all chunks."""
    return [t for output in outputs for t in output.token_ids]


def prompt(length: int, seed: int = 0) -> list[int]:
    """A random prompt."""
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
