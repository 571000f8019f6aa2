"""Real models that fail on demand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.request import AUTO
from spec_cascade.engines.pytorch.drafters import ModelDrafter
from spec_cascade.engines.pytorch.model import CachedModel
from tests.tiny import VOCAB, engine_over, noisy, tiny_llama, under_our_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Feed
    from spec_cascade.engines.pytorch.engine import PytorchEngine


class FaultyModel(CachedModel):
    """A copy of a model that raises, or whose rows become NaN, when it is told to; any thread may tell it.

    Attributes:
        before: Called ahead of each forward; to wait in, say.
        poisoned: Whether the rows of a slot are NaN.
        num_raised: Errors raised so far.
    """

    def __init__(self, model: PreTrainedModel, *, slots: int, max_seq_len: int) -> None:
        copy = under_our_attention(model)
        super().__init__(copy, slots=slots, max_seq_len=max_seq_len)
        self.before: Callable[[], None] = lambda: None
        self.poisoned: Callable[[int], bool] = lambda _slot: False
        self.num_raised = 0
        self._planned: tuple[Exception, int, bool] | None = None
        copy.model.layers[-1].register_forward_pre_hook(self._fail_inside)

    def fail(self, error: Exception, *, after: int = 0, inside: bool = False) -> None:
        """Raise ``error`` in the forward after ``after`` further ones, before it or ``inside`` of its layers."""
        self._planned = (error, after, inside)

    def heal(self) -> None:
        """Forget a planned failure."""
        self._planned = None

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        """As the real one, unless told otherwise."""
        self.before()
        if self._planned is not None and not self._planned[2]:
            self._count_down()
        logits = super().forward(feeds)
        start = 0
        for feed in feeds:
            if feed.rows and self.poisoned(feed.slot):
                logits[start : start + feed.rows] = torch.nan
            start += feed.rows
        return logits

    def _fail_inside(self, _module: object, _inputs: object) -> None:
        """Earlier layers have written their keys and values by now."""
        if self._planned is not None and self._planned[2]:
            self._count_down()

    def _count_down(self) -> None:
        assert self._planned is not None
        error, after, inside = self._planned
        if after:
            self._planned = (error, after - 1, inside)
            return
        self._planned = None
        self.num_raised += 1
        raise error


@dataclass(frozen=True, slots=True)
class FaultyEngine:
    """The real engine over tiny models that fail on demand."""

    engine: PytorchEngine
    target: FaultyModel
    drafter: FaultyModel

    @property
    def cached_tokens(self) -> int:
        """Tokens in both models' caches."""
        return sum(self.target.cache.lengths) + sum(self.drafter.cache.lengths)


def faulty_engine(
    *,
    slots: int = 4,
    queue: int = 8,
    max_seq_len: int = 192,
    prefill_chunk: int = 16,
    draft_length: int = AUTO,
    fallback: bool = False,
    noise: float = 0.03,
) -> FaultyEngine:
    """A started engine."""
    model = tiny_llama()
    target = FaultyModel(model, slots=slots, max_seq_len=max_seq_len)
    drafter = FaultyModel(noisy(model, noise), slots=slots, max_seq_len=max_seq_len)
    engine = engine_over(
        target,
        ModelDrafter(drafter, vocab_size=VOCAB, prefill_chunk=prefill_chunk),
        max_draft_length=8,
        max_queue_size=queue,
        prefill_chunk=prefill_chunk,
        draft_length=draft_length,
        fallback=fallback,
    )
    return FaultyEngine(engine, target, drafter)
