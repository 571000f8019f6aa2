"""CUDA graphs: work that comes back is captured once and replayed, so that the host launches it in one call.

Forwards are captured: hundreds of launches each. The verifier's launches are not. They are four to six, made while the
device is still busy with the target's forward, and what is compiled into them (K, which rules and truncations are in
the batch) changes from round to round.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Protocol

import torch

from spec_cascade.engines.pytorch.capturable import check_capturable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)

# A process may capture one graph at a time.
_capturing = Lock()


class Graph(Protocol):
    """Work that was captured."""

    def replay(self) -> None:
        """Do it again, on what its memory holds now."""


class Graphs:
    """Runs pieces of work; one that has come back often enough is captured, and replayed from then on.

    A piece of work reads and writes memory that stays where it is, and does the same when it is done twice. What
    cannot be captured is run as it is: the first failure is logged, and no other is tried.

    Args:
        capture: Makes a graph of a piece of work.
        limit: Most graphs kept; the one that was not used for longest makes room.
        patience: Runs of a piece of work before it is captured: a capture costs as much as many of them.

    Attributes:
        failure: Why nothing is captured any more; empty while captures go well.
    """

    def __init__(self, capture: Callable[[Callable[[], None]], Graph], *, limit: int = 64, patience: int = 2) -> None:
        self._capture = capture
        self._limit = limit
        self._patience = patience
        self._graphs: OrderedDict[Hashable, Graph] = OrderedDict()
        self._runs: Counter[Hashable] = Counter()
        self.failure = ""

    def __len__(self) -> int:
        """Graphs kept."""
        return len(self._graphs)

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do ``work``, or replay the graph that was made of the work of this key."""
        if key not in self._graphs:
            self._runs[key] += 1
            if self.failure or self._runs[key] <= self._patience or not self._keep(key, work):
                work()
                return
        self._graphs.move_to_end(key)
        self._graphs[key].replay()

    def _keep(self, key: Hashable, work: Callable[[], None]) -> bool:
        """Capture a piece of work; whether that went well."""
        try:
            check_capturable(work)
            graph = self._capture(work)
        except RuntimeError as error:
            self.failure = str(error)
            log.warning("CUDA graphs are off, this model's forward cannot be captured: %s", error)
            return False
        # A capture waits for the device, so the graph that goes is not at work.
        if len(self._graphs) >= self._limit:
            oldest, _ = self._graphs.popitem(last=False)
            del self._runs[oldest]
        self._graphs[key] = graph
        return True


class CudaCapture:
    """Captures work as CUDA graphs that share one pool of memory: what one keeps to itself, the next may overwrite."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        """Capture a piece of work.

        Raises:
            RuntimeError: It does what a graph cannot hold, such as asking the device for a number.
        """
        graph = torch.cuda.CUDAGraph()
        current = torch.cuda.current_stream(self._device)
        with _capturing, torch.cuda.device(self._device):
            # Once on the stream of the capture: libraries set themselves up per stream, which no graph can hold.
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):
                work()
            current.wait_stream(self._stream)
            try:
                # Only this thread is watched: others, of another engine or of a server, may allocate meanwhile.
                with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                    work()
            finally:
                # A capture that breaks off leaves the thread on its stream.
                torch.cuda.set_stream(current)
        return graph
