"""On what, when and with which versions something was measured."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from importlib.metadata import version
from typing import Any

import psutil
import torch

from spec_cascade.processor import cores, processor_name

PACKAGES = ("spec-cascade", "torch", "transformers")


def machine(device: torch.device) -> dict[str, Any]:
    """Facts about the machine, as JSON takes them."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "processor": processor_name(),
        "cores": cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": gpu,
        "device": str(device),
        "torch_threads": torch.get_num_threads(),
    }


def versions() -> dict[str, str]:
    """Versions of what decides the speed."""
    return {name: version(name) for name in PACKAGES} | {"python": platform.python_version()}


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
