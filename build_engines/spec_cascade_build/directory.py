"""An output directory that appears whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import FILE_NAME
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Iterator


def check_replaceable(output: Path, marker: str = FILE_NAME, what: str = "an engine directory") -> None:
    """Verify that nothing else than what is written there would be replaced.

    Args:
        output: A directory that is to be written.
        marker: The file by which its kind is known.
        what: What to call that kind.

    Raises:
        BuildError: ``output`` holds something else.
    """
    if not output.exists():
        return
    if not output.is_dir() or (any(output.iterdir()) and not (output / marker).is_file()):
        raise BuildError(f"{output} exists and is not {what}: remove it or choose another place")


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A new directory that takes the place of ``output`` when the block ends without an error.

    It grows in a hidden workshop beside ``output``, on the same file system, so that a rename finishes it.
    """
    output = output.absolute()
    with workshop(output.parent, f".{output.name}.building-") as shop:
        new = shop / "new"
        new.mkdir()
        yield new
        _swap(new, output, shop)


@contextmanager
def workshop(parent: Path, prefix: str) -> Iterator[Path]:
    """A temporary directory in ``parent``, removed at the end.

    It is locked as long as this process lives, however that ends; one without a lock is what a killed process left,
    and the next one removes it.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(parent, prefix)
    path, lock = _locked_directory(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _swap(new: Path, output: Path, shop: Path) -> None:
    """Rename the finished directory into place; one that is not empty has to be moved out of the way first."""
    for attempt in range(100):
        with suppress(FileNotFoundError):
            output.rename(shop / f"old-{attempt}")
        try:
            new.rename(output)
        except OSError as error:
            # Another build of the same pair was faster by a moment.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        else:
            return
    raise BuildError(f"{output} cannot be replaced: other builds keep writing it")


def _locked_directory(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = _try_lock(path)
        # Another build may have taken the directory for a stale one before it was locked: then make a new one.
        if lock is not None and path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _remove_stale(parent: Path, prefix: str) -> None:
    for path in parent.iterdir():
        lock = _try_lock(path) if path.name.startswith(prefix) else None
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def _try_lock(directory: Path) -> int | None:
    """The descriptor of an exclusive lock that the kernel drops with the process; None if it cannot be had."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
