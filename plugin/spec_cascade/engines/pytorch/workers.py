"""The worker threads that OpenMP keeps for every thread that has computed in parallel on a CPU."""

from __future__ import annotations

import ctypes
import re
from functools import cache
from pathlib import Path

_SOFT = 1


def release_workers() -> None:
    """Let the workers of the calling thread go; its next parallel computation makes new ones, in microseconds.

    GNU's OpenMP has workers look out for work between two computations only while there are no more of them, over all
    threads, than processors; else they sleep at once, and a forward of many small operations takes about twice as long.
    So a thread that is done for a while, such as the one that loaded the models, must not keep its workers. Does
    nothing where another OpenMP runs.
    """
    library = _gnu_openmp()
    if library is not None:
        library.omp_pause_resource_all(_SOFT)


@cache
def _gnu_openmp() -> ctypes.CDLL | None:
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        return None
    found = re.search(r"/\S*/libgomp[^\s/]*\.so\S*", maps.read_text(encoding="utf-8"))
    library = ctypes.CDLL(found.group()) if found is not None else None
    return library if hasattr(library, "omp_pause_resource_all") else None
