"""A GPU's stream, as far as a test on a CPU can tell: copies to the host are under way until their event is waited for.

Real copies into pinned memory return at once. Who reads the host's tensor before the event finds what stood in that
memory; here that is garbage, always.
"""

from __future__ import annotations

import torch
from torch import Tensor

GARBAGE = 0x7A7A7A7A
"""What stands in memory that nobody has written, where integers are expected; no token of any vocabulary."""


class CpuEvent:
    """Plays ``torch.cuda.Event``.

    Args:
        stream: Whose copies it waits for.
    """

    def __init__(self, stream: CopyStream) -> None:
        self._stream = stream
        self._copies: list[tuple[Tensor, Tensor]] = []

    def record(self) -> None:
        """Stand behind all copies that are under way."""
        self._copies = self._stream.take()

    def query(self) -> bool:
        """Whether they have arrived."""
        return not self._copies

    def synchronize(self) -> None:
        """Wait for them; again to wait does nothing."""
        with torch.inference_mode():
            for host, value in self._copies:
                host.copy_(value)
        self._copies = []


class CopyStream:
    """Plays the current stream."""

    def __init__(self) -> None:
        self._under_way: list[tuple[Tensor, Tensor]] = []

    def copy_to_host(self, source: Tensor) -> Tensor:
        """Begin a copy of what the tensor holds now."""
        blank = float("nan") if source.is_floating_point() else GARBAGE if source.dtype != torch.bool else True
        host = torch.full_like(source, blank)
        self._under_way.append((host, source.clone()))
        return host

    def take(self) -> list[tuple[Tensor, Tensor]]:
        """The copies that no event has been recorded behind."""
        under_way, self._under_way = self._under_way, []
        return under_way
