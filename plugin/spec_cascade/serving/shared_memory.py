"""The shared-memory regions through which the server talks to its Python models.

A server that is killed leaves its regions in /dev/shm. Every run names its own with a prefix that says whose they are,
so that the next run can tell what is stale.
"""

from __future__ import annotations

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path

_DIRECTORY = Path("/dev/shm")
_NAME = re.compile(r"spec_cascade_(?P<namespace>\d+)_(?P<pid>\d+)_[0-9a-f]+_")


def new_prefix() -> str:
    """A prefix for one run, held by this process."""
    return f"spec_cascade_{_pid_namespace()}_{os.getpid()}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove what a run left behind."""
    for path in _regions(prefix):
        path.unlink(missing_ok=True)


def remove_stale_regions() -> None:
    """Remove the regions of runs whose process is gone.

    Process ids mean nothing in another container's namespace, and /dev/shm may be shared between containers: only
    regions of this namespace are judged.
    """
    for path in _regions("spec_cascade_"):
        match = _NAME.match(path.name)
        if match is None or int(match["namespace"]) != _pid_namespace() or _is_alive(int(match["pid"])):
            continue
        with suppress(PermissionError):  # another user's
            path.unlink(missing_ok=True)


def _regions(prefix: str) -> list[Path]:
    return list(_DIRECTORY.glob(f"{prefix}*")) if _DIRECTORY.is_dir() else []


def _pid_namespace() -> int:
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
