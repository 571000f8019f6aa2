"""Keys and values of the live sequences, one slot each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.families import head_width, kv_heads

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from spec_cascade.engines.pytorch.attention import SlotBatch


class SlotCache:
    """Per layer, keys and values ``[slots, H_kv, max_seq_len, D]``; a slot's length says how much of it is valid.

    Live sequences fill the first slots without gaps, so that a batch reads a view and copies nothing. Attention reads
    columns beyond a sequence's length, too, and gives them no weight; but no weight times NaN is NaN, so a slot is
    wiped when its sequence has gone.

    Args:
        config: The model's config.
        slots: Most live sequences.
        max_seq_len: Most tokens of each.
        dtype: Type of keys and values.
        device: Where they are.
        padding: Add a column in which padding tokens may write; it is never read.
    """

    def __init__(
        self,
        config: PretrainedConfig,
        *,
        slots: int,
        max_seq_len: int,
        dtype: torch.dtype,
        device: torch.device,
        padding: bool = False,
    ) -> None:
        shape = (config.num_hidden_layers, slots, kv_heads(config), max_seq_len + padding, head_width(config))
        self.device = device
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths = [0] * slots
        self.max_seq_len = max_seq_len
        self._written = [0] * slots

    @property
    def padding_column(self) -> int:
        """Where padding tokens write, in a cache that was made for them."""
        return self.max_seq_len

    def append(self, layer: int, batch: SlotBatch, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write the new keys and values ``[H_kv, T, D]`` of one layer; return the layer's caches.

        Lengths do not change here: every layer of a forward writes behind the same length.
        """
        self.keys[layer, batch.slots, :, batch.columns] = keys.transpose(0, 1)
        self.values[layer, batch.slots, :, batch.columns] = values.transpose(0, 1)
        return self.keys[layer], self.values[layer]

    def reserve(self, slot: int, length: int) -> None:
        """Note that a forward will write ``length`` tokens to a slot, whether or not it comes to its end."""
        self._written[slot] = max(self._written[slot], self.lengths[slot] + length)

    def extend(self, slot: int, length: int) -> None:
        """Count ``length`` tokens that a forward has written to a slot."""
        self.lengths[slot] += length

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot; a shorter slot stays as it is."""
        self.lengths[slot] = min(self.lengths[slot], length)
        if length == 0:
            self._wipe(slot)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another and empty the source."""
        length = self.lengths[source]
        self.keys[:, destination, :, :length] = self.keys[:, source, :, :length]
        self.values[:, destination, :, :length] = self.values[:, source, :, :length]
        self.lengths[destination] = length
        self.lengths[source] = 0
        self._wipe(source)
        self._wipe(destination)

    def _wipe(self, slot: int) -> None:
        """Zero what was written behind a slot's length."""
        length, written = self.lengths[slot], self._written[slot]
        if length < written:
            self.keys[:, slot, :, length:written] = 0
            self.values[:, slot, :, length:written] = 0
        self._written[slot] = length
