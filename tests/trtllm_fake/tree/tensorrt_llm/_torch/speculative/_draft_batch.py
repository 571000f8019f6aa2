"""Shadows of the target's requests, for the drafter: a part of `ModelDrafter`."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor.handle_logits import HandleLogits
from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState
from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
from tensorrt_llm._utils import nvtx_range
from tensorrt_llm.logger import logger
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager
    from tensorrt_llm._torch.pyexecutor.sampler import SampleState

SHAPE = current().shape


class DraftBatch:
    """See the module."""

    draft_model_engine: Any
    sampler: Any
    use_static_draft_loop: bool

    def _create_draft_request(self, request: LlmRequest, input_tokens: Sequence[int]) -> LlmRequest:
        return LlmRequest(
            input_tokens=input_tokens,
            request_id=request.py_request_id,
            max_new_tokens=request.py_max_new_tokens,
            sampling_config=request.sampling_config,
            guided_decoding_params=request.guided_decoding_params,
            target_seq_slot=request.py_seq_slot,
            return_perf_metrics=request.return_perf_metrics,
            is_streaming=False,
            exclude_last_generation_logits=True,
            is_draft=True,
            return_generation_logits=self.sampler.should_provide_draft_probs(request),
        )

    def _create_context_request(self, request: LlmRequest, input_tokens: Sequence[int]) -> LlmRequest:
        """The drafter is to process what the target processed last."""
        draft = self._create_draft_request(request, input_tokens)
        begin, end = request.py_last_context_chunk
        if begin is not None and end is not None:
            draft.context_current_position = begin
            draft.context_chunk_size = end - begin
        return draft

    def _create_draft_request_for_request(self, request: LlmRequest) -> LlmRequest:
        drafted = len(request.py_last_draft_tokens or ())
        if not SHAPE.since_1_2_0:
            request.py_draft_tokens = []
        assert drafted - request.py_num_accepted_draft_tokens >= 0
        tokens = request.get_tokens(0)
        if request.max_beam_num_tokens - 1 == request.py_prompt_len:
            # The drafter's first turn.
            assert drafted == 0
            return self._create_context_request(request, tokens)
        draft = self._create_draft_request(request, tokens)
        draft.state = LlmRequestState.GENERATION_IN_PROGRESS
        return draft

    def _add_to_draft_batch(
        self, draft_batch: ScheduledRequests, draft_request: LlmRequest, original_request: LlmRequest
    ) -> None:
        draft_request.py_stop_words_list = original_request.py_stop_words_list
        if draft_request.state is LlmRequestState.GENERATION_IN_PROGRESS:
            draft_batch.generation_requests.append(draft_request)
        else:
            draft_batch.context_requests.append(draft_request)

    @nvtx_range("_prepare_draft_batch")
    def _prepare_draft_batch(self, scheduled_requests: ScheduledRequests) -> ScheduledRequests:
        """The shadows; only what generates is drafted for, prompts fill the drafter's cache chunk by chunk."""
        try:
            model = self.draft_model_engine.model
            inner = (model.draft_model if self.use_static_draft_loop else model).model
            for request in scheduled_requests.all_requests():
                if hasattr(inner, "d2t"):
                    request.d2t = inner.d2t.data
                request.py_draft_use_greedy_sampling = self.use_static_draft_loop
            batch = ScheduledRequests()
            for request in scheduled_requests.context_requests:
                if not _is_switched_off(request) and not request.is_first_context_chunk:
                    # A token stands for the target's first, which is not there yet.
                    shadow = self._create_context_request(request, [*request.get_tokens(0), 0])
                    self._add_to_draft_batch(batch, shadow, request)
            for request in scheduled_requests.generation_requests:
                if self._may_be_drafted(request):
                    self._add_to_draft_batch(batch, self._create_draft_request_for_request(request), request)
        except Exception as error:
            logger.error("Error in _prepare_draft_batch: %s", error)
            traceback.print_exc()
            raise
        return batch

    def _may_be_drafted(self, request: LlmRequest) -> bool:
        return not (
            _is_switched_off(request)
            or request.state is LlmRequestState.GENERATION_COMPLETE
            or request.py_draft_pages_allocated == 0
            or request.max_beam_num_tokens - 1 >= self.draft_model_engine.max_seq_len
        )

    @nvtx_range("sample_async")
    def sample_async(
        self, draft_batch: ScheduledRequests, outputs: dict[str, Any], resource_manager: ResourceManager | None = None
    ) -> SampleState | None:
        """Begin to sample drafted tokens, with the target's sampler; an error is logged, and None comes back."""
        try:
            prefix_sum = [0]
            for request in draft_batch.context_requests:
                rows = request.context_chunk_size if request.py_return_context_logits else 1
                prefix_sum.append(prefix_sum[-1] + rows)
            HandleLogits()(
                draft_batch.context_requests,
                draft_batch.generation_requests,
                outputs["logits"],
                self.sampler.beam_width(draft_batch.all_requests()),
                prefix_sum,
                self.sampler.is_generation_model(),
            )
            state: SampleState = self.sampler.sample_async(draft_batch, outputs, prefix_sum, resource_manager)
        except Exception as error:
            logger.error("Error in sampling: %s", error)
            return None
        return state

    def update_request_states(self, scheduled_requests: ScheduledRequests) -> None:
        """A chunk is behind the prompts."""
        for request in scheduled_requests.context_requests:
            if request.state is not LlmRequestState.GENERATION_COMPLETE:
                request.move_to_next_context_chunk()
            if request.context_remaining_length == 0:
                request.state = LlmRequestState.GENERATION_IN_PROGRESS

    def update_requests(self, sample_state: SampleState, resource_manager: ResourceManager | None = None) -> None:
        """Give drafted tokens to their requests."""
        self.sampler.update_requests(sample_state, resource_manager)


def _is_switched_off(request: LlmRequest) -> bool:
    return SHAPE.since_1_2_0 and request.py_disable_speculative_decoding
