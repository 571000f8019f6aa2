"""What the loop asks of a sampler; reported as part of ``sampler``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from tensorrt_llm._torch.pyexecutor._sampler_states import SampleState
from tensorrt_llm.bindings.executor import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest
    from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests


class Sampler(ABC):
    """What the loop asks of a sampler."""

    SampleState = SampleState

    def setup_sampler_step(self, scheduled_requests: ScheduledRequests) -> None:  # noqa: B027
        """Before anything is sampled."""

    def get_cache_indirection(self) -> Tensor | None:
        """Where beams come from."""
        return None

    @abstractmethod
    def sample_async(
        self,
        scheduled_requests: ScheduledRequests,
        model_outputs: dict[str, Tensor],
        num_context_logits_prefix_sum: list[int],
        resource_manager: ResourceManager | None = None,
    ) -> SampleState:
        """Begin to sample."""

    @abstractmethod
    def update_requests(self, state: SampleState, resource_manager: ResourceManager | None = None) -> None:
        """Give what was sampled to the requests."""

    @staticmethod
    def beam_width(scheduled_requests: Iterable[LlmRequest]) -> int:
        """The first request's; 0 where there is none."""
        return next((request.sampling_config.beam_width for request in scheduled_requests), 0)

    @abstractmethod
    def is_generation_model(self) -> bool:
        """Whether anything is generated."""

    def should_provide_draft_probs(self, request: LlmRequest) -> bool:
        """Whether the drafter is to hand on its rows."""
        return True


class EarlyStopSampler(Sampler):
    """For models that generate nothing: every request ends with its prompt."""

    def sample_async(
        self,
        scheduled_requests: ScheduledRequests,
        model_outputs: dict[str, Tensor],
        num_context_logits_prefix_sum: list[int],
        resource_manager: ResourceManager | None = None,
    ) -> SampleState:
        """Sample nothing."""
        return SampleState(scheduled_requests=scheduled_requests)

    def update_requests(self, state: SampleState, resource_manager: ResourceManager | None = None) -> None:
        """End them."""
        for request in state.scheduled_requests.context_requests:
            request.finish_by(FinishReason.LENGTH, 0)

    def is_generation_model(self) -> bool:
        """It is not."""
        return False
