"""What this machine's processor is called, how much of it there is, and what it can do."""

from __future__ import annotations

import os
import platform
from pathlib import Path

# The instruction sets that compilers and matrix libraries choose by.
_INSTRUCTION_SETS = ("sse", "ssse", "avx", "amx", "fma", "f16c", "bmi", "sve", "asimd", "i8mm", "bf16")


def processor_name() -> str:
    """The processor's name, as its maker gives it where the machine tells."""
    return _field("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def instruction_sets() -> str:
    """The architecture and, on Linux, the instruction sets: what a model compiled ahead of time was compiled for."""
    flags = (_field("flags") or _field("Features")).split()
    return " ".join([platform.machine(), *sorted(flag for flag in flags if flag.startswith(_INSTRUCTION_SETS))])


def _field(name: str) -> str:
    """A field of the first processor; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
