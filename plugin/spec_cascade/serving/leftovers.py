"""What a server that is killed leaves behind: shared memory, and its private directory.

The server talks to its Python models through regions in /dev/shm, which outlive it. Every run names what it makes with
a prefix that says whose it is, so that the next run can tell what is stale.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")
_NAME = re.compile(r"spec_cascade_(?P<namespace>\d+)_(?P<pid>\d+)_[0-9a-f]+_")


def new_run() -> str:
    """A prefix for what one run makes, while this process lives."""
    return f"spec_cascade_{_pid_namespace()}_{os.getpid()}_{secrets.token_hex(4)}_"


def make_directory(run: str) -> Path:
    """Make the private directory of a run."""
    directory = Path(tempfile.gettempdir()) / run
    directory.mkdir(mode=0o700)
    return directory


def remove(run: str) -> None:
    """Remove what a run made."""
    for path in _made(run):
        _remove(path)


def remove_stale() -> None:
    """Remove what runs made whose process is gone.

    Process ids mean nothing in another container's namespace, and /dev/shm may be shared between containers: only what
    was made in this namespace is judged.
    """
    for path in _made("spec_cascade_"):
        match = _NAME.match(path.name)
        if match is None or int(match["namespace"]) != _pid_namespace() or _is_alive(int(match["pid"])):
            continue
        with suppress(PermissionError):  # another user's
            _remove(path)


def _made(prefix: str) -> list[Path]:
    places = [place for place in (_SHARED_MEMORY, Path(tempfile.gettempdir())) if place.is_dir()]
    return [path for place in places for path in place.glob(f"{prefix}*")]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
