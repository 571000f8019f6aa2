"""The lock of an engine directory that is being built."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from spec_cascade_build.directory import check_replaceable
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MARKER = ".tensorrt-build"
"""By which an engine directory is known as one of compiled engines; a running build holds its lock."""


@contextmanager
def locked(output: Path) -> Iterator[int]:
    """Hold the directory's lock; commands inherit it, so that one that outlives a killed build still holds it.

    Args:
        output: The engine directory, which is made if it is not there.

    Raises:
        BuildError: It holds something else, or is being built.
    """
    check_replaceable(output, MARKER, "a directory of TensorRT engines")
    output.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(output / MARKER, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 64).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise BuildError(
            f"{output} is being built by process {holder}, or a command that it started still runs: wait for it or "
            "end it"
        ) from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
