"""Copies to the host, by a thread of their own where one is wanted; reported as part of ``sampler``."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from torch import Tensor

from tensorrt_llm._torch.pyexecutor._sampler_states import SamplerEvent
from tests.trtllm_fake.stream import CopyStream, CpuEvent


class AsyncWorkerMixin:
    """Begins copies to the host; without a worker they run along with the GPU."""

    MAX_WORKERS = 1

    def _async_worker_init(self, enable_async_worker: bool) -> None:
        self._enable_async_worker = enable_async_worker
        self._async_worker: ThreadPoolExecutor | None = None
        self._async_worker_futures: list[Future[Any]] = []
        self._stream = CopyStream()

    def async_worker_enabled(self) -> bool:
        """Whether there may be a worker."""
        return getattr(self, "_enable_async_worker", False)

    def _async_worker_active(self) -> bool:
        return getattr(self, "_async_worker", None) is not None

    def async_worker_start(self) -> None:
        """Have one from now on."""
        assert self.async_worker_enabled()
        if not self._async_worker_active():
            self._async_worker = ThreadPoolExecutor(max_workers=self.MAX_WORKERS)

    def async_worker_stop(self) -> None:
        """Have none any more."""
        assert self.async_worker_enabled()
        if self._async_worker is not None:
            self._async_worker.shutdown(wait=True)
            self._async_worker = None

    def _copy_to_host(self, src: Tensor) -> Tensor:
        if self._async_worker is None:
            return self._stream.copy_to_host(src)
        copies = CopyStream()
        host, event = copies.copy_to_host(src), CpuEvent(copies)
        event.record()
        self._async_worker_futures.append(self._async_worker.submit(event.synchronize))
        return host

    def _record_sampler_event(self) -> SamplerEvent:
        event = CpuEvent(self._stream)
        event.record()
        futures = self._async_worker_futures if self._async_worker_active() else None
        self._async_worker_futures = []
        return SamplerEvent(cuda_event=event, worker_futures=futures)
