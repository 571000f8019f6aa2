"""The loop: schedule, draft, forward, sample, commit, respond; without overlap of rounds."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor._executor_queue import ExecutorQueue
from tensorrt_llm._torch.pyexecutor.handle_logits import HandleLogits
from tensorrt_llm._torch.pyexecutor.llm_request import (
    LlmRequest,
    LlmRequestState,
    LlmResponse,
    get_draft_token_length,
)
from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager, ResourceManagerType
from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
from tensorrt_llm._utils import nvtx_range
from tensorrt_llm.logger import logger
from tests.trtllm_fake.parts import made_of
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorrt_llm._torch.pyexecutor.sampler import Sampler, SampleState

SHAPE = current().shape
_GENERATES = (LlmRequestState.GENERATION_IN_PROGRESS, LlmRequestState.DISAGG_GENERATION_INIT)


@made_of(ExecutorQueue)
class PyExecutor:
    """See the module."""

    def __init__(
        self,
        resource_manager: ResourceManager,
        scheduler: Any,
        model_engine: Any,
        sampler: Sampler,
        dist: Any,
        max_num_sequences: int,
        drafter: Any = None,
        disable_overlap_scheduler: bool = False,
        max_input_len: int = 0x7FFFFFFF,
        max_batch_size: int = 8,
        max_beam_width: int = 1,
        max_draft_len: int = 0,
        max_total_draft_tokens: int = 0,
        kv_cache_transceiver: Any = None,
        guided_decoder: Any = None,
        garbage_collection_gen0_threshold: int | None = None,
        start_worker: bool = True,
        kv_connector_manager: Any = None,
        max_seq_len: int | None = None,
        peft_cache_config: Any = None,
        virtual_memory_pools: Any = None,
        hang_detection_timeout: int | None = None,
        execution_stream: Any = None,
    ) -> None:
        self.resource_manager = resource_manager
        self.scheduler = scheduler
        self.model_engine = model_engine
        self.sampler = sampler
        self.dist = dist
        self.max_num_sequences = max_num_sequences
        self.drafter = drafter
        self.draft_model_engine = getattr(drafter, "draft_model_engine", None)
        self.guided_decoder = guided_decoder
        self.disable_overlap_scheduler = disable_overlap_scheduler
        self.max_batch_size = max_batch_size
        self.max_beam_width = max_beam_width
        self.max_draft_len = max_draft_len
        self.max_total_draft_tokens = max_total_draft_tokens
        self.max_seq_len = max_seq_len
        self.llm_args = model_engine.llm_args
        self.stream_interval = self.llm_args.stream_interval
        self.active_requests: list[LlmRequest] = []
        self.use_spec_decode = True
        self.speculation_permanently_disabled = False
        self.is_warmup = False
        self.iter_counter = 0
        self.loop_error: BaseException | None = None
        self._open()
        if start_worker:
            self.start_worker()

    @property
    def should_stop_processing(self) -> bool:
        """Whether all has been done."""
        return self.is_shutdown and not self.active_requests and not self.waiting_queue

    def _executor_loop(self) -> None:
        if not self.disable_overlap_scheduler:
            raise NotImplementedError("the fake does not overlap rounds: set disable_overlap_scheduler")
        while self._round():
            pass

    def step(self) -> bool:
        """One round, for tests that step the loop; whatever leaves it ends it."""
        if self.loop_error is not None:
            raise self.loop_error
        try:
            if not self.disable_overlap_scheduler:
                raise NotImplementedError("the fake does not overlap rounds: set disable_overlap_scheduler")
            return self._round()
        except BaseException as error:
            self.loop_error = error
            raise

    def _round(self) -> bool:
        batch, _ = self._prepare_and_schedule_batch()
        if batch is None:
            return False
        if batch.batch_size > 0:
            self.resource_manager.prepare_resources(batch)
            if self.drafter is not None and self.use_spec_decode:
                # No net here: what drafting raises ends the loop.
                self.drafter.prepare_draft_tokens(batch, self.resource_manager)
                self.drafter.pad_draft_tokens_for_cuda_graph(batch)
            outputs = self._forward_step(batch)
            state = self._sample_async(batch, outputs)
            if self.drafter is not None:
                self.drafter.run_drafter_post(batch, self.resource_manager, self.is_warmup)
            self._update_request_states(batch)
            self._update_requests(state, self.resource_manager)
            self._handle_canceled_requests()
            self._handle_responses()
            self.resource_manager.update_resources(batch, None, None)
            cache = self.resource_manager.get_resource_manager(ResourceManagerType.KV_CACHE_MANAGER)
            cache.check(self.active_requests)
        self.iter_counter += 1
        return True

    def _prepare_and_schedule_batch(self) -> tuple[ScheduledRequests | None, Any]:
        self._fetch_and_activate_new_requests()
        if self.should_stop_processing:
            return None, None
        if self.drafter is not None:
            self.use_spec_decode = self._wants_to_speculate()
            self.model_engine.enable_spec_decode = self.use_spec_decode
            for request in self.active_requests:
                if request.state in _GENERATES:
                    request.draft_tokens = [0] * self.max_total_draft_tokens
            self._prepare_draft_requests()
        batch = self._schedule()
        if SHAPE.since_1_2_0 and self.drafter is not None and not self.use_spec_decode:
            for request in batch.all_requests():
                # For good.
                request.py_disable_speculative_decoding = True
        return batch, None

    def _wants_to_speculate(self) -> bool:
        if self.speculation_permanently_disabled:
            return False
        wants: bool = self.drafter.should_use_spec_decode(
            self.active_requests, self.max_batch_size, self.model_engine.max_num_tokens, self.max_total_draft_tokens
        )
        return wants

    def _prepare_draft_requests(self) -> None:
        """Zeros for drafts, so that scheduler and KV cache count them."""
        try:
            for request in self.active_requests:
                if request.state not in _GENERATES:
                    continue
                request.py_last_draft_tokens = request.py_draft_tokens
                is_off = not self.use_spec_decode or (SHAPE.since_1_2_0 and request.py_disable_speculative_decoding)
                length = 0 if is_off else self.max_total_draft_tokens
                request.py_draft_tokens = [0] * length
                request.py_draft_pages_allocated = length
        except Exception as error:
            self._report(error)

    def _schedule(self) -> ScheduledRequests:
        chosen = self.scheduler.schedule_request(self.active_requests, set())
        batch = ScheduledRequests()
        batch.context_requests = chosen.context_requests
        batch.generation_requests = chosen.generation_requests
        batch.paused_requests = chosen.paused_requests
        return batch

    @nvtx_range("_forward_step")
    def _forward_step(
        self,
        scheduled_requests: ScheduledRequests,
        new_tensors_device: Any = None,
        num_accepted_tokens_device: Any = None,
    ) -> dict[str, Any] | None:
        try:
            outputs: dict[str, Any] = self.model_engine.forward(
                scheduled_requests,
                self.resource_manager,
                new_tensors_device,
                gather_context_logits=any(r.py_return_context_logits for r in scheduled_requests.context_requests),
                cache_indirection_buffer=self.sampler.get_cache_indirection(),
                num_accepted_tokens_device=num_accepted_tokens_device,
            )
        except Exception as error:
            self._report(error)
            return None
        return outputs

    @nvtx_range("_sample_async")
    def _sample_async(
        self, scheduled_batch: ScheduledRequests, batch_outputs: dict[str, Any] | None
    ) -> SampleState | None:
        try:
            if batch_outputs is None:
                return None
            prefix_sum = [0]
            for request in scheduled_batch.context_requests:
                rows = request.context_chunk_size if request.py_return_context_logits else 1
                prefix_sum.append(prefix_sum[-1] + rows)
            HandleLogits()(
                scheduled_batch.context_requests,
                scheduled_batch.generation_requests,
                batch_outputs["logits"],
                self.sampler.beam_width(scheduled_batch.all_requests()),
                prefix_sum,
                self.sampler.is_generation_model(),
            )
            # Three arguments: no resource manager.
            return self.sampler.sample_async(scheduled_batch, batch_outputs, prefix_sum)
        except Exception as error:
            self._report(error)
            return None

    def _update_request_states(self, scheduled_requests: ScheduledRequests) -> None:
        """Prompts move on, before what was sampled is given to them."""
        for request in scheduled_requests.context_requests:
            if request.state is not LlmRequestState.GENERATION_COMPLETE:
                begin = request.context_current_position
                request.py_last_context_chunk = (begin, begin + request.context_chunk_size)
                request.move_to_next_context_chunk()
            if request.context_remaining_length == 0:
                # Even of a request that has just failed.
                request.state = LlmRequestState.GENERATION_IN_PROGRESS

    @nvtx_range("_update_requests")
    def _update_requests(
        self, sample_state: SampleState | None, resource_manager: ResourceManager | None = None
    ) -> None:
        try:
            self.sampler.update_requests(sample_state, resource_manager)
        except Exception as error:
            self._report(error)

    @nvtx_range("_handle_responses")
    def _handle_responses(self) -> list[LlmRequest]:
        responses, ended, active = [], [], []
        for request in self.active_requests:
            request.draft_tokens = request.py_draft_tokens if get_draft_token_length(request) > 0 else []
            request.decoding_iter = request.py_decoding_iter
            due = request.py_decoding_iter == 1 or request.py_decoding_iter % self.stream_interval == 0
            response = request.create_response(False, 0) if due or request.is_finished else None
            if response is not None:
                responses.append((request.parent_request_id, response))
            (ended if response is not None and request.is_finished else active).append(request)
        self.active_requests = active
        self._enqueue_responses(responses)
        self._terminate_requests(ended)
        return ended

    def _terminate_requests(self, requests: Sequence[LlmRequest]) -> None:
        for request in requests:
            self.resource_manager.free_resources(request)

    def _report(self, error: Exception) -> None:
        traceback.print_exc()
        logger.error("Encountered an error: %s", error)
        self._handle_errors(str(error))

    def _handle_errors(self, error_msg: str | None = None, *, requests: Sequence[LlmRequest] | None = None) -> None:
        """Everybody who is active gets the message, whoever it was."""
        failed = list(self.active_requests if requests is None else requests)
        for request in failed:
            request.state = LlmRequestState.GENERATION_COMPLETE
        self.active_requests = [request for request in self.active_requests if request not in failed]
        text = error_msg or "error"
        self._enqueue_responses(
            [
                (
                    request.parent_request_id,
                    LlmResponse(request_id=request.py_request_id, error_msg=text, client_id=request.py_client_id),
                )
                for request in failed
            ]
        )
        self._terminate_requests(failed)
