"""Between host and device: uploads that wait for nothing, and the one copy back that a round waits for.

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


def to_host(tensor: Tensor) -> Tensor:
    """A tensor's copy on the host; waits until the device has made it. A round on a GPU does this once."""
    if tensor.device.type != "cuda":
        return tensor.cpu()
    copy = tensor.to("cpu", non_blocking=True)
    done = torch.cuda.Event()  # type: ignore[no-untyped-call]
    done.record(torch.cuda.current_stream(tensor.device))
    done.synchronize()
    return copy
