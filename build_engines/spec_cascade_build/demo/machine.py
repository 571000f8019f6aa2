"""The lines under a table of figures: on what, when, and with which versions it was measured."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from urllib.request import urlopen

from spec_cascade.processor import cores, processor_name

PACKAGES = ("spec-cascade", "torch", "transformers")


def description(server_url: str) -> list[str]:
    """Machine, versions and date; the server is asked for its own version at its HTTP URL."""
    with urlopen(f"{server_url}/v2", timeout=10) as reply:  # our own server, on loopback
        triton = json.load(reply)["version"]
    versions = [f"{name} {version(name)}" for name in PACKAGES]
    today = datetime.now(timezone.utc).date().isoformat()
    return [
        ", ".join([processor_name(), f"{cores()} cores", f"{_memory_gib():.0f} GiB", *_gpus()]),
        ", ".join([*versions, f"Triton server {triton}", f"Python {platform.python_version()}", today]),
    ]


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    run = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    return [line.strip() for line in run.stdout.splitlines() if line.strip()] if run.returncode == 0 else []
