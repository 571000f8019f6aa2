"""What one forward reads: token ids, positions, places in the cache, and the rows that are wanted."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.attention import Group, SlotBatch
from spec_cascade.errors import EngineError
from spec_cascade.verify import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.decoding.models import Feed
    from spec_cascade.engines.pytorch.cache import SlotCache


@dataclass(frozen=True, slots=True)
class Inputs:
    """The numbers of T tokens and W wanted rows, neighbours in memory: one copy brings them to the device.

    Attributes:
        memory: int64 ``[4 * T + W]``.
        tokens: T.
    """

    memory: Tensor
    tokens: int

    @property
    def token_ids(self) -> Tensor:
        """``[T]``; 0 for padding."""
        return self._part(0)

    @property
    def positions(self) -> Tensor:
        """Position of each token in its sequence, ``[T]``; 0 for padding."""
        return self._part(1)

    @property
    def slots(self) -> Tensor:
        """Slot of each token, ``[T]``."""
        return self._part(2)

    @property
    def columns(self) -> Tensor:
        """Where in its slot a token's key and value are written, ``[T]``."""
        return self._part(3)

    @property
    def wanted(self) -> Tensor:
        """Tokens whose logits are wanted, in the order of the feeds, ``[W]``; 0 for padding."""
        return self.memory[4 * self.tokens :]

    def _part(self, number: int) -> Tensor:
        return self.memory[number * self.tokens : (number + 1) * self.tokens]

    @classmethod
    def of(cls, feeds: Sequence[Feed], cache: SlotCache, starts: Sequence[int], tokens: int, rows: int) -> Inputs:
        """The inputs of a forward, on the cache's device; drafted tokens never leave it.

        Args:
            feeds: What the sequences feed.
            cache: Where it goes: behind what each slot holds.
            starts: Where each feed's tokens begin among the T.
            tokens: T; those that no feed fills are padding.
            rows: W; what the feeds do not want is padding.

        Raises:
            EngineError: A feed does not fit in its slot.
        """
        token_ids, positions, slots = [0] * tokens, [0] * tokens, [0] * tokens
        columns = [cache.padding_column] * tokens
        wanted: list[int] = []
        on_device: list[int] = []
        for feed, start in zip(feeds, starts, strict=True):
            end, first = start + fed(feed), cache.lengths[feed.slot]
            last = first + end - start
            if last > cache.max_seq_len:
                raise EngineError(f"slot {feed.slot} would hold {last} tokens, the limit is {cache.max_seq_len}")
            known = start + len(feed.token_ids)
            token_ids[start:known] = feed.token_ids
            positions[start:end] = columns[start:end] = range(first, last)
            slots[start:end] = [feed.slot] * (end - start)
            wanted.extend(range(end - feed.rows, end))
            on_device.extend(range(known, end))
        wanted.extend([0] * (rows - len(wanted)))
        flat = [*token_ids, *positions, *slots, *columns, *wanted, *on_device]
        memory = to_device(flat, torch.long, cache.device)
        size = len(flat) - len(on_device)
        inputs = cls(memory[:size], tokens)
        drafted = [feed.drafted for feed in feeds if feed.drafted is not None]
        if drafted:
            inputs.token_ids[memory[size:]] = torch.cat(drafted)
        return inputs


def fed(feed: Feed) -> int:
    """Tokens of a feed."""
    return len(feed.token_ids) + (0 if feed.drafted is None else len(feed.drafted))


def ragged(feeds: Sequence[Feed], cache: SlotCache) -> tuple[Inputs, SlotBatch]:
    """A forward over feeds of any lengths, without padding."""
    lengths = [fed(feed) for feed in feeds]
    starts = [0, *accumulate(lengths)]
    inputs = Inputs.of(feeds, cache, starts[:-1], starts[-1], sum(feed.rows for feed in feeds))
    groups: list[Group] = []
    first = 0
    for i in range(1, len(feeds) + 1):
        if i < len(feeds) and lengths[i] == lengths[first] and feeds[i].slot == feeds[i - 1].slot + 1:
            continue
        length, before = lengths[first], [cache.lengths[feed.slot] for feed in feeds[first:i]]
        positions = inputs.positions[starts[first] : starts[i]].view(-1, length)
        even = length == 1 and min(before) == max(before)
        groups.append(Group(feeds[first].slot, starts[first], positions, max(before) + length, even))
        first = i
    return inputs, SlotBatch(cache, inputs.slots, inputs.columns, groups)
