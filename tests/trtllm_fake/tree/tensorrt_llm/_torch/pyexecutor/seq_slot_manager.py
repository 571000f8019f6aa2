"""Which slot of the sampler's memory is whose."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tensorrt_llm._torch.pyexecutor.resource_manager import BaseResourceManager

if TYPE_CHECKING:
    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests


class SeqSlotManager(BaseResourceManager):
    """Gives slots to requests, the last first, and a freed one to the next who asks: no slot is a place in a batch."""

    def __init__(self, max_num_sequences: int) -> None:
        self._free = list(range(max_num_sequences))
        self._taken: dict[int, int] = {}

    def prepare_resources(self, scheduled_batch: ScheduledRequests) -> None:
        """Whoever has none gets one."""
        for request in scheduled_batch.all_requests():
            if request.seq_slot is None:
                if not self._free:
                    raise ValueError("No free slots")
                slot = self._free.pop()
                self._taken[request.request_id] = slot
                request.seq_slot = slot
                request.py_seq_slot = slot

    def free_resources(self, request: LlmRequest) -> None:
        """Take it back."""
        slot = self._taken.pop(request.request_id, None)
        if slot is not None:
            self._free.append(slot)
