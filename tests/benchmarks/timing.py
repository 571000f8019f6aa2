"""How long a piece of work takes: by the clock on the CPU, by events around a CUDA graph on a GPU."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_REPEATS = 20


def seconds(works: Sequence[Callable[[], object]], device: torch.device, *, repeats: int = _REPEATS) -> float:
    """Median seconds of one piece of work.

    Args:
        works: The same work on different inputs. On a GPU they are captured into one graph, one after another, so
            that the inputs of the next are out of the cache and the graph's own launch is shared out.
        device: Where it runs.
        repeats: How often to measure.
    """
    if device.type == "cuda":
        return _in_graph(works, repeats)
    for work in works:
        work()
    taken = []
    for _ in range(max(repeats // 4, 3)):
        for work in works:
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    return median(taken)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of a copy that is too large for any cache."""
    size = 2**30 if device.type == "cuda" else 2**27
    source = torch.ones(size // 4, dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds([lambda: target.copy_(source)], device)


def _in_graph(works: Sequence[Callable[[], object]], repeats: int) -> float:
    # Compilation and allocation happen before the capture, on a side stream as torch asks.
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for work in works:
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    for _ in range(3):
        graph.replay()
    taken = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3 / len(works))
    return median(taken)
