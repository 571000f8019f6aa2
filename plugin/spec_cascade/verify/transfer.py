"""Between host and device: uploads that wait for nothing, and copies back.

``torch.tensor(list, device="cuda")`` copies from pageable memory and so waits until the device has done all that it
was given before; a plain ``.cpu()`` waits too. All that a round sends or fetches goes through here instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def to_device(values: Tensor | Sequence[object], dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """What the host has, as a tensor on ``device``; to a GPU by way of pinned memory, without a wait.

    Args:
        values: A tensor on the host, or numbers in nested sequences.
        dtype: Type of the result.
        device: Where it goes.
    """
    tensor = torch.as_tensor(values, dtype=dtype)
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # Pinned memory that a copy still reads is not handed out again: torch's allocator sees to that.
    return tensor.pin_memory().to(device, non_blocking=True)


class HostCopy:
    """A tensor's copy on the host, under way.

    Args:
        tensor: Must not be written to until `get` has returned.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._done: torch.cuda.Event | None = None
        if tensor.device.type != "cuda":
            self._copy = tensor.cpu()
            return
        # Into pinned memory: to any other the copy would be waited for here.
        self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._done.record(torch.cuda.current_stream(tensor.device))

    def get(self) -> Tensor:
        """The copy; waits until the device has made it."""
        if self._done is not None:
            self._done.synchronize()
        return self._copy


def to_host(tensor: Tensor) -> Tensor:
    """A tensor's copy on the host; waits until the device has made it."""
    return HostCopy(tensor).get()
