"""A Hugging Face decoder with a slot KV cache: one packed forward for all live sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.attention import RaggedBatch, Segment
from spec_cascade.engines.pytorch.cache import SlotCache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade.decoding.models import Feed


class CachedModel:
    """Implements `decoding.models.LanguageModel`; the model must have been loaded with our attention."""

    def __init__(self, model: PreTrainedModel, *, slots: int, max_seq_len: int) -> None:
        self._model = model.eval()
        parameter = next(model.parameters())
        self.cache = SlotCache(
            model.config, slots=slots, max_seq_len=max_seq_len, dtype=parameter.dtype, device=parameter.device
        )

    @property
    def vocab_size(self) -> int:
        """Width of its logits."""
        return int(self._model.config.vocab_size)

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
        """Append the tokens of all feeds in one pass; return logits ``[sum of rows, V]`` in the order of the feeds."""
        lengths = self.cache.lengths
        segments = [Segment(f.slot, lengths[f.slot], len(f.token_ids)) for f in feeds]
        batch = RaggedBatch(segments, self.cache)
        device = self.cache.device
        token_ids = torch.tensor([[t for f in feeds for t in f.token_ids]], device=device)
        output = self._model(
            input_ids=token_ids,
            position_ids=batch.positions.unsqueeze(0),
            use_cache=False,
            logits_to_keep=torch.tensor(_wanted(feeds), dtype=torch.long, device=device),
            ragged_batch=batch,
        )
        for segment in segments:
            lengths[segment.slot] += segment.length
        logits: Tensor = output.logits[0]
        return logits


def _wanted(feeds: Sequence[Feed]) -> list[int]:
    """Indices, within the packed tokens, of the positions whose logits are wanted."""
    wanted: list[int] = []
    end = 0
    for feed in feeds:
        end += len(feed.token_ids)
        wanted.extend(range(end - feed.rows, end))
    return wanted
