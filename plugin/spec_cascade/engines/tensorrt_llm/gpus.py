"""The GPUs of this machine, as their driver reports them."""

from __future__ import annotations

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
    """The GPUs of this machine, as its driver reports them; none where it has no driver, or pynvml is not installed."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = (pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return [_described(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _described(pynvml: Any, handle: Any) -> Gpu:
    name = pynvml.nvmlDeviceGetName(handle)
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle).total
    # Older versions of pynvml return bytes.
    return Gpu(name.decode() if isinstance(name, bytes) else name, memory, (major, minor))
