"""The GPUs that a pair may be planned for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.engines.tensorrt_llm.gpus import Gpu, present_gpus
from spec_cascade.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
GIB = 1 << 30
THIS = "this"


# Memory as nvidia-smi shows it.
GPUS = {
    name: Gpu(name, mebibytes * MIB, capability)
    for name, mebibytes, capability in (
        ("A100-40GB", 40960, (8, 0)),
        ("A100", 81920, (8, 0)),
        ("L4", 23034, (8, 9)),
        ("L40S", 46068, (8, 9)),
        ("H100", 81559, (9, 0)),
        ("H100-NVL", 95830, (9, 0)),
        ("H200", 143771, (9, 0)),
        ("B200", 183359, (10, 0)),
        ("GB200", 189471, (10, 0)),
        ("RTX-PRO-6000", 97887, (12, 0)),
    )
}


def planned_gpu(name: str, present: Callable[[], list[Gpu]] | None = None) -> Gpu:
    """The GPU that a pair file names.

    Args:
        name: A name of `GPUS`, in any case, or ``this``.
        present: Lists the machine's GPUs; None asks the driver.

    Raises:
        ConfigError: There is no such GPU in the list, or ``this`` machine has none.
    """
    if name != THIS:
        found = {known.lower(): gpu for known, gpu in GPUS.items()}.get(name.lower())
        if found is None:
            allowed = f"one of {', '.join(GPUS)}, or this{did_you_mean(name, GPUS)}"
            raise ConfigError("tensorrt_llm.gpu", name, allowed)
        return found
    gpus = (present or present_gpus)()
    if not gpus:
        raise ConfigError(
            "tensorrt_llm.gpu", THIS, f"the GPU that will serve: this machine has none ({', '.join(GPUS)})"
        )
    return gpus[0]
