"""What a server may leave behind: processes, open ports, shared memory."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SHARED_MEMORY = Path("/dev/shm")
_GONE_WITHIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """Where to look once a server has stopped.

    Attributes:
        pid: The server, which leads a session of its own; None where it was not up.
        urls: What it listened on.
        shared_memory: Names in /dev/shm from before it started.
    """

    pid: int | None
    urls: tuple[str, ...]
    shared_memory: frozenset[str]

    def leftovers(self) -> list[str]:
        """What stays of the server, in words."""
        # A process that was killed is gone a moment later.
        deadline = time.monotonic() + _GONE_WITHIN_SECONDS
        while (found := self._found()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _found(self) -> list[str]:
        return [
            *(f"process {pid}" for pid in _session(self.pid)),
            *(f"a listener on {url}" for url in self.urls if _answers(url)),
            *(f"/dev/shm/{name}" for name in sorted(own_shared_memory() - self.shared_memory)),
        ]


def own_shared_memory() -> frozenset[str]:
    """Names in /dev/shm that carry the id of this process, as those of its servers do."""
    if not _SHARED_MEMORY.is_dir():
        return frozenset()
    return frozenset(path.name for path in _SHARED_MEMORY.iterdir() if str(os.getpid()) in path.name.split("_"))


def _session(leader: int | None) -> list[int]:
    """Processes of the session that ``leader`` led, zombies aside."""
    members = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # After the name, which may hold anything: state, parent, group, session.
            state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        if int(session) == leader and state != "Z":
            members.append(int(entry.name))
    return sorted(members)


def _answers(url: str) -> bool:
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=1):
            return True
    except OSError:
        return False
