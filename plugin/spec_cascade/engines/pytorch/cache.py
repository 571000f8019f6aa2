"""Keys and values of the live sequences, one slot each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from spec_cascade.engines.pytorch.attention import RaggedBatch


class SlotCache:
    """Per layer, keys and values ``[slots, H_kv, max_seq_len, D]``; a slot's length says how much of it is valid.

    Live sequences fill the first slots without gaps, so that a batch reads a view and copies nothing.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        slots: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (config.num_hidden_layers, slots, heads, max_seq_len, head_dim)
        self.device = device
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * slots
        self.max_seq_len = max_seq_len

    def append(self, layer: int, batch: RaggedBatch, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values ``[H_kv, T, D]`` of one layer; return the layer's caches.

        Lengths do not change here: every layer of a forward writes behind the same length.
        """
        self.keys[layer, batch.slots, :, batch.positions] = keys.transpose(0, 1)
        self.values[layer, batch.slots, :, batch.positions] = values.transpose(0, 1)
        return self.keys[layer], self.values[layer]

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot; a shorter slot stays as it is."""
        self.lengths[slot] = min(self.lengths[slot], length)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another and empty the source."""
        length = self.lengths[source]
        self.keys[:, destination, :, :length] = self.keys[:, source, :, :length]
        self.values[:, destination, :, :length] = self.values[:, source, :, :length]
        self.lengths[destination] = length
        self.lengths[source] = 0
