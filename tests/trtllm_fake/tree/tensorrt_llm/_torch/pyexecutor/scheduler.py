"""Which requests a round serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState, get_draft_token_length

if TYPE_CHECKING:
    from collections.abc import Sequence


class ScheduledRequests:
    """The requests of a round; its lists may be exchanged while others hold it."""

    def __init__(self) -> None:
        self.context_requests: list[LlmRequest] = []
        self.generation_requests: list[LlmRequest] = []
        self.paused_requests: list[LlmRequest] = []

    @property
    def is_generation_only(self) -> bool:
        """Whether no prompt is among them."""
        return not self.context_requests

    @property
    def can_run_cuda_graph(self) -> bool:
        """Whether every request has a fixed number of rows."""
        return not self.context_requests

    @property
    def batch_size(self) -> int:
        """How many there are."""
        return len(self.context_requests) + len(self.generation_requests)

    def all_requests(self) -> list[LlmRequest]:
        """Prompts first; a new list each time."""
        return self.context_requests + self.generation_requests


class SchedulerOutput(NamedTuple):
    """What was chosen."""

    context_requests: list[LlmRequest]
    generation_requests: list[LlmRequest]
    paused_requests: list[LlmRequest]
    fitting_disagg_gen_init_requests: list[LlmRequest]
    num_fitting_requests: int


class SimpleScheduler:
    """All that generate, then prompts in the order of their arrival as far as tokens are left.

    Args:
        max_num_requests: Of a round.
        max_num_tokens: Of a round.
        chunk_unit_size: Parts of prompts are multiples of it; None takes prompts whole.
    """

    def __init__(self, max_num_requests: int, max_num_tokens: int, chunk_unit_size: int | None) -> None:
        self.max_num_requests = max_num_requests
        self.max_num_tokens = max_num_tokens
        self.chunk_unit_size = chunk_unit_size

    def schedule_request(
        self, active_requests: Sequence[LlmRequest], inflight_request_ids: set[int]
    ) -> SchedulerOutput:
        """Choose."""
        generation = [r for r in active_requests if r.state is LlmRequestState.GENERATION_IN_PROGRESS]
        generation = generation[: self.max_num_requests]
        left = self.max_num_tokens - sum(1 + get_draft_token_length(request) for request in generation)
        context: list[LlmRequest] = []
        for request in active_requests:
            if request.state is not LlmRequestState.CONTEXT_INIT:
                continue
            size = self._chunk(request.context_remaining_length, left)
            if size == 0 or len(generation) + len(context) == self.max_num_requests:
                break
            request.context_chunk_size = size
            left -= size
            context.append(request)
        return SchedulerOutput(context, generation, [], [], len(generation) + len(context))

    def _chunk(self, remaining: int, left: int) -> int:
        if remaining <= left:
            return remaining
        return 0 if self.chunk_unit_size is None else max(0, left) // self.chunk_unit_size * self.chunk_unit_size
