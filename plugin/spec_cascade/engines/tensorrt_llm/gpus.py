"""The GPUs of this machine, as their driver reports them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU.

    Attributes:
        name: What it is called.
        memory: Bytes, as the driver reports them.
        capability: Compute capability: (9, 0) is Hopper.
    """

    name: str
    memory: int
    capability: tuple[int, int]

    @property
    def formats(self) -> tuple[str, ...]:
        """What weights may be in: bfloat16 needs Ampere, fp8 Ada, nvfp4 Blackwell."""
        known = (("bfloat16", (8, 0)), ("fp8", (8, 9)), ("nvfp4", (10, 0)))
        return tuple(name for name, least in known if self.capability >= least)


def present_gpus() -> list[Gpu]:
    """The GPUs that CUDA shows to this process, as their driver reports them.

    None where there is no driver, it does not answer, or pynvml is not installed.
    """
    try:
        import pynvml
    except ModuleNotFoundError:
        return []
    try:
        pynvml.nvmlInit()
        try:
            return [_described(pynvml, handle) for handle in _visible(pynvml)]
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return []


def _visible(pynvml: Any) -> list[Any]:
    """Handles of what `CUDA_VISIBLE_DEVICES` names, in its order; NVML itself does not look at it."""
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    words = os.environ.get("CUDA_VISIBLE_DEVICES")
    if words is None:
        return handles
    found = []
    for word in words.split(","):
        handle = _named(pynvml, handles, word.strip())
        if handle is None:
            # CUDA shows nothing behind a name that it does not know.
            break
        found.append(handle)
    return found


def _named(pynvml: Any, handles: list[Any], word: str) -> Any:
    """The handle of an index, of the beginning of a UUID or of a part of a GPU; None where there is none such."""
    if word.isdecimal():
        return handles[int(word)] if int(word) < len(handles) else None
    if word.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(word)
    fitting = [handle for handle in handles if _text(pynvml.nvmlDeviceGetUUID(handle)).startswith(word or "?")]
    return fitting[0] if len(fitting) == 1 else None


def _described(pynvml: Any, handle: Any) -> Gpu:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
    return Gpu(_text(pynvml.nvmlDeviceGetName(handle)), memory, (major, minor))


def _text(found: str | bytes) -> str:
    """Older versions of pynvml return bytes."""
    return found.decode() if isinstance(found, bytes) else found
