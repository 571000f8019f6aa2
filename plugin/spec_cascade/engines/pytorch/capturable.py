"""Whether work can be a CUDA graph, found out before it is tried: a capture that breaks off leaves marks on torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch._ops import OpOverload

_ASKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class AsksDeviceError(RuntimeError):
    """Work needs a number from the device before it can go on; the text names the operation."""


def check_capturable(work: Callable[[], None]) -> None:
    """Do ``work`` under the eyes of a watch.

    Raises:
        AsksDeviceError: It reads a number off the device, or has a result whose shape depends on one, as the choice of
            experts in some models has.
    """
    with _Watch():  # type: ignore[no-untyped-call]
        work()


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: OpOverload, _types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            # Operations made of others are seen by their parts.
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        if _ASKS & set(func.tags) and not _plain_index(func, args):
            raise AsksDeviceError(f"{func} needs an answer from the device")
        return func(*args, **kwargs)


def _plain_index(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether this is indexing by numbers; indexing by truth is what has a shape of its own."""
    return str(func) == "aten.index.Tensor" and all(i is None or i.dtype != torch.bool for i in args[1])
