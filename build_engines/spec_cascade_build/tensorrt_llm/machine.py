"""What a real build needs of the machine that it runs on."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING

from spec_cascade.engines.tensorrt_llm.gpus import present_gpus
from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.gpus import GIB, GPUS, THIS, planned_gpu

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.engines.tensorrt_llm.gpus import Gpu
    from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection

# What understands `llm.yaml`: early candidates of 1.2.0 know the drafter by another name, `speculative_model_dir`.
_VERSIONS = re.compile(r"1\.2\.(?!0(a|b|rc[0-7](?!\d)|\.?dev))")
# A driver reserves some of the memory, another amount in every version.
_SLACK = 0.98
_LIBRARIES = ("tensorrt_llm", "torch", "transformers", "tokenizers", "huggingface_hub")


def check_machine(section: TensorrtLlmSection, gpus: Sequence[Gpu] | None = None) -> list[Gpu]:
    """Verify that this machine can build the engine, and return its GPUs.

    Args:
        section: What the pair file says of this engine.
        gpus: The machine's GPUs; None asks the driver.

    Raises:
        BuildError: Something is missing; all of it is named.
        ConfigError: The machine's GPUs are smaller than the one that the pair is planned for.
    """
    found = list(present_gpus() if gpus is None else gpus)
    quantised = {section.quantisation("target"), section.quantisation("drafter")} - {"none"}
    missing = [reason for reason in (_without_tensorrt_llm(), _without_gpus(found, section)) if reason]
    if quantised and find_spec("modelopt") is None:
        missing.append("nvidia-modelopt is not installed, which quantise needs")
    if missing:
        raise BuildError(
            f"this machine cannot build for engine tensorrt_llm: {'; '.join(missing)}. "
            "spec-cascade build --check and --dry-run work without"
        )
    if section.gpu != THIS:
        _compare(section.gpu, found[0])
    return found


def library_versions(quantised: bool) -> dict[str, str]:
    """Versions of the libraries that an engine of this machine depends on.

    Args:
        quantised: Whether ModelOpt is one of them.
    """
    names = (*_LIBRARIES, "nvidia-modelopt") if quantised else _LIBRARIES
    return {name: version(name) for name in names}


def _without_tensorrt_llm() -> str | None:
    if find_spec("tensorrt_llm") is None:
        return "tensorrt_llm is not installed"
    try:
        found = version("tensorrt_llm")
    except PackageNotFoundError:
        return "tensorrt_llm is installed without its version"
    return None if _VERSIONS.match(found) else f"tensorrt_llm is {found}, not 1.2.x from 1.2.0rc8 on"


def _without_gpus(gpus: list[Gpu], section: TensorrtLlmSection) -> str | None:
    if not gpus:
        reason = " (pynvml is not installed, which finds it)" if find_spec("pynvml") is None else ""
        return f"it has no GPU{reason}"
    ranks = section.tensor_parallel_size
    return f"it has {len(gpus)} GPUs where tensor_parallel_size is {ranks}" if len(gpus) < ranks else None


def _compare(name: str, here: Gpu) -> None:
    if _is_like(here, planned_gpu(name)):
        return
    # Of the GPUs that can be named, those that this one is, to the reserve.
    names = [known for known, gpu in GPUS.items() if _is_like(here, gpu) and _is_like(gpu, here)]
    capability = ".".join(map(str, here.capability))
    raise ConfigError(
        "tensorrt_llm.gpu",
        name,
        f"{' or '.join([*names, THIS])}: the GPU that is here is {here.name}, {here.memory / GIB:.1f} GiB, compute "
        f"capability {capability}",
    )


def _is_like(gpu: Gpu, planned: Gpu) -> bool:
    """Whether a GPU can take the place of another."""
    return gpu.memory >= _SLACK * planned.memory and gpu.capability >= planned.capability
