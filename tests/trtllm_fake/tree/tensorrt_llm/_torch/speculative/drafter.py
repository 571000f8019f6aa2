"""What the loop asks of a drafter."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, final

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, get_draft_token_length
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests

SHAPE = current().shape


class Drafter(ABC):
    """Proposes tokens for what generates."""

    if SHAPE.since_1_2_0:

        def __init__(
            self,
            max_draft_len: int | None = None,
            max_total_draft_tokens: int | None = None,
            max_concurrency: int | None = None,
            draft_len_schedule: dict[int, int] | None = None,
        ) -> None:
            self.max_draft_len = max_draft_len
            self.max_total_draft_tokens = max_total_draft_tokens
            self._static_max_total_draft_tokens = max_total_draft_tokens
            self.max_concurrency = max_concurrency
            self.draft_len_schedule = draft_len_schedule

    else:

        def __init__(self, max_concurrency: int | None = None) -> None:  # type: ignore[misc]
            self.max_concurrency = max_concurrency

    @abstractmethod
    def prepare_draft_tokens(
        self, scheduled_requests: ScheduledRequests, resource_manager: ResourceManager | None = None
    ) -> None:
        """Draft."""

    @final
    def should_use_spec_decode(
        self,
        requests: Sequence[LlmRequest],
        max_batch_size: int,
        max_num_tokens: int,
        max_total_draft_tokens: int,
    ) -> bool:
        """Whether a batch is small enough to draft for."""
        if self.max_concurrency is None:
            return True
        if not requests or max_batch_size <= 0 or max_num_tokens <= 0:
            return False
        batch = min(len(requests), max_batch_size, max_num_tokens // (1 + max_total_draft_tokens))
        return batch <= self.max_concurrency

    @final
    def pad_draft_tokens_for_cuda_graph(self, scheduled_requests: ScheduledRequests) -> None:
        """Zeros behind every draft that is too short; those of requests that were not drafted for at all, too."""
        wanted = self._static_max_total_draft_tokens if SHAPE.since_1_2_0 else self.max_draft_len
        assert wanted is not None
        for request in scheduled_requests.generation_requests:
            request.py_draft_tokens.extend(0 for _ in range(wanted - get_draft_token_length(request)))

    def run_drafter_post(  # noqa: B027
        self,
        scheduled_requests: ScheduledRequests,
        resource_manager: ResourceManager | None = None,
        is_warmup: bool = False,
    ) -> Any:
        """After the target's forward."""
