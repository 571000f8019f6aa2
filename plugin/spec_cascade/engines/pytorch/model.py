"""A Hugging Face decoder with a slot KV cache: one packed forward for all live sequences."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.cache import SlotCache
from spec_cascade.engines.pytorch.inputs import fed, ragged
from spec_cascade.engines.pytorch.load import logits_width
from spec_cascade.engines.pytorch.static import StaticSteps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Feed
    from spec_cascade.engines.pytorch.attention import SlotBatch
    from spec_cascade.engines.pytorch.compiled import CompiledForward
    from spec_cascade.engines.pytorch.inputs import Inputs


class CachedModel:
    """Implements `decoding.models.LanguageModel`; the model must have been loaded with our attention.

    Args:
        model: The decoder.
        slots: Most live sequences.
        max_seq_len: Most tokens of a sequence.
        static: Run decode steps in fixed shapes (`static.StaticSteps`), on CUDA as graphs; None does so on CUDA. On a
            CPU padding costs more than it saves.
        compiled: The model's forward, compiled ahead of time; None runs the model itself.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        max_seq_len: int,
        static: bool | None = None,
        compiled: CompiledForward | None = None,
    ) -> None:
        self._model = model.eval()
        self._logits = partial(_logits, self._model) if compiled is None else compiled
        weight = next(model.parameters())
        static = weight.is_cuda if static is None else static
        self.cache = SlotCache(
            model.config,
            slots=slots,
            max_seq_len=max_seq_len,
            dtype=weight.dtype,
            device=weight.device,
            padding=static,
        )
        self.steps = StaticSteps(self._logits, self.cache) if static else None

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""
        return logits_width(self._model)

    def length(self, slot: int) -> int:
        """Tokens of the slot whose keys and values are cached."""
        return self.cache.lengths[slot]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot; a shorter slot stays as it is."""
        self.cache.truncate(slot, length)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another and empty the source."""
        self.cache.move(source, destination)

    @torch.inference_mode()
    def forward(self, feeds: Sequence[Feed]) -> Tensor:
        """Append the tokens of all feeds in one pass; return logits ``[sum of rows, V]`` in the order of the feeds.

        The logits stand until the model's next forward, which may overwrite them.
        """
        for feed in feeds:
            self.cache.reserve(feed.slot, fed(feed))
        shape = None if self.steps is None else self.steps.shape(feeds)
        if self.steps is None or shape is None:
            logits = self._logits(*ragged(feeds, self.cache))
        else:
            logits = self.steps.forward(feeds, shape)
        for feed in feeds:
            self.cache.extend(feed.slot, fed(feed))
        return logits


def _logits(model: PreTrainedModel, inputs: Inputs, batch: SlotBatch) -> Tensor:
    """Logits ``[W, V]`` of the wanted tokens."""
    output = model(
        input_ids=inputs.token_ids.unsqueeze(0),
        position_ids=inputs.positions.unsqueeze(0),
        use_cache=False,
        logits_to_keep=inputs.wanted,
        slot_batch=batch,
    )
    logits: Tensor = output.logits[0]
    return logits
