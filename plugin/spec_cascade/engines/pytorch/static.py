"""Decode steps in fixed shapes: few distinct ones, so that each can be captured as a CUDA graph and replayed.

Row b of a step is slot b. Slots without a feed, and the tail of shorter feeds, are padding: their tokens stand at
position 0, write to the cache's padding column, and nobody reads their rows. Everything that changes from step to step
is in one piece of memory (`Inputs`) that stays where it is; masks are made on the device from the positions in it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from spec_cascade.engines.pytorch.attention import Group, SlotBatch
from spec_cascade.engines.pytorch.graphs import CudaCapture, Graphs
from spec_cascade.engines.pytorch.inputs import Inputs, fed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from spec_cascade.decoding.models import Feed
    from spec_cascade.engines.pytorch.cache import SlotCache

# So many tokens cost a GPU about as much as one: it waits for the weights. Beyond, padding may at most double them.
_FREE_TOKENS = 256
_FEWEST_KEYS = 256


class Shape(NamedTuple):
    """All that tells one step from another.

    Attributes:
        slots: Sequences, n: a power of two, or all slots.
        length: Tokens of each, L.
        rows: Rows of logits wanted of each.
        keys: Keys that attention reads: a power of two, or all columns.
    """

    slots: int
    length: int
    rows: int
    keys: int


class StaticSteps:
    """Runs decode steps of a model in fixed shapes.

    Args:
        logits: The model's forward: logits ``[W, V]``.
        cache: Its keys and values.

    Attributes:
        graphs: What was captured; None where steps run as they are.
    """

    def __init__(self, logits: Callable[[Inputs, SlotBatch], Tensor], cache: SlotCache) -> None:
        self._logits = logits
        self._cache = cache
        self._inputs: dict[Shape, Inputs] = {}
        self._output: dict[Shape, Tensor] = {}
        self._largest: Tensor | None = None
        self.graphs = Graphs(CudaCapture(cache.device)) if cache.device.type == "cuda" else None

    def shape(self, feeds: Sequence[Feed]) -> Shape | None:
        """The shape of a decode step; None for feeds that are none, or that padding would make too dear.

        In a decode step each sequence feeds the tokens whose rows it wants, and at most one before them.
        """
        lengths = [fed(feed) for feed in feeds]
        if any(length - feed.rows > 1 for length, feed in zip(lengths, feeds, strict=True)):
            return None
        slots = min(_power_of_two(1 + max(feed.slot for feed in feeds)), len(self._cache.lengths))
        length = max(lengths)
        if slots * length > max(_FREE_TOKENS, 2 * sum(lengths)):
            return None
        end = max(self._cache.lengths[feed.slot] + n for feed, n in zip(feeds, lengths, strict=True))
        keys = min(_power_of_two(max(end, _FEWEST_KEYS)), self._cache.max_seq_len)
        return Shape(slots, length, max(feed.rows for feed in feeds), keys)

    def forward(self, feeds: Sequence[Feed], shape: Shape) -> Tensor:
        """Logits ``[sum of rows, V]`` in the order of the feeds; they stand until the next forward."""
        starts = [feed.slot * shape.length for feed in feeds]
        inputs = Inputs.of(feeds, self._cache, starts, shape.slots * shape.length, shape.slots * shape.rows)
        if shape in self._inputs:
            self._inputs[shape].memory.copy_(inputs.memory)
        else:
            self._inputs[shape] = inputs
        work = partial(self._run, shape)
        if self.graphs is None:
            work()
        else:
            self.graphs.run(shape, work)
        return self._output[shape][: sum(feed.rows for feed in feeds)]

    def _run(self, shape: Shape) -> None:
        """The forward of one shape: from memory that stays where it is to memory that stays where it is."""
        inputs = self._inputs[shape]
        group = Group(0, 0, inputs.positions.view(shape.slots, shape.length), shape.keys, even=False)
        logits = self._logits(inputs, SlotBatch(self._cache, inputs.slots, inputs.columns, [group]))
        if shape not in self._output:
            self._output[shape] = self._room(logits)
        self._output[shape].copy_(logits)

    def _room(self, logits: Tensor) -> Tensor:
        """Memory for logits, shared by all shapes; it grows by doubling, and shapes that have some keep theirs."""
        if self._largest is None or len(self._largest) < len(logits):
            self._largest = logits.new_empty(_power_of_two(len(logits)), logits.shape[1])
        return self._largest[: len(logits)]


def _power_of_two(number: int) -> int:
    """The least power of two that is not less."""
    return 1 << (number - 1).bit_length()
