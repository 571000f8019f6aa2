"""A model drafts: all tokens in one call, or step by step through the target's sampler."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any

import torch

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState
from tensorrt_llm._torch.speculative._draft_batch import DraftBatch
from tensorrt_llm._torch.speculative.drafter import Drafter
from tensorrt_llm._utils import nvtx_range
from tensorrt_llm.logger import logger
from tests.trtllm_fake.parts import made_of

if TYPE_CHECKING:
    from torch import Tensor

    from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager
    from tensorrt_llm._torch.pyexecutor.sampler import Sampler, SampleState
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
    from tensorrt_llm._torch.pyexecutor.seq_slot_manager import SeqSlotManager


@made_of(DraftBatch)
class ModelDrafter(Drafter):
    """See the module."""

    def __init__(
        self,
        spec_config: Any,
        draft_model_engine: Any,
        max_draft_len: int,
        max_total_draft_tokens: int,
        draft_seq_slot_manager: SeqSlotManager,
        sampler: Sampler,
        spec_resource_manager: Any = None,
        guided_decoder: Any = None,
    ) -> None:
        if draft_model_engine is None:
            raise ValueError("draft_model_engine cannot be None")
        if max_draft_len < 0 or max_total_draft_tokens < 0:
            raise ValueError("max_draft_len and max_total_draft_tokens must be >= 0")
        assert max_draft_len <= max_total_draft_tokens
        super().__init__(
            max_draft_len, max_total_draft_tokens, spec_config.max_concurrency, spec_config.draft_len_schedule
        )
        self.spec_config = spec_config
        self.draft_model_engine = draft_model_engine
        self.draft_seq_slot_manager = draft_seq_slot_manager
        self.sampler = sampler
        self.spec_resource_manager = spec_resource_manager
        self.guided_decoder = guided_decoder
        self.disable_overlap_scheduler = True
        self.use_static_draft_loop = draft_model_engine.model_is_wrapped
        if self.use_static_draft_loop:
            assert guided_decoder is None
            assert spec_config._allow_greedy_draft_tokens
            assert spec_config.draft_len_schedule is None
        self.draft_tokens_accumulator: dict[int, list[int]] = {}
        self.req_id_to_old_request: dict[int, LlmRequest] | None = None

    @nvtx_range("prepare_draft_tokens")
    def prepare_draft_tokens(
        self, scheduled_requests: ScheduledRequests, resource_manager: ResourceManager | None = None
    ) -> None:
        """Draft. Whatever goes wrong here leaves the executor's loop."""
        self.disable_overlap_scheduler = True
        if not self.draft_model_engine:
            raise ValueError("Draft model engine is not set")
        if resource_manager is None:
            raise ValueError("Resource manager is required")
        try:
            batch = self._setup_draft_batch_and_resources(scheduled_requests)
            if batch is None:
                return
            outputs = self.forward_draft_model(batch, resource_manager, is_first_draft_token=True)
            if self.use_static_draft_loop:
                self.process_static_draft_outputs(outputs, batch)
                for request in batch.all_requests():
                    self.draft_seq_slot_manager.free_resources(request)
                return
            state = self.sample_async(batch, outputs, resource_manager)
            self.update_request_states(batch)
            last = self._execute_draft_loop(batch, resource_manager, None, None, state)
            if last is not None:
                self.process_dynamic_draft_outputs(last)
            self._hand_out()
        except Exception as error:
            traceback.print_exc()
            logger.error("Encountered an error in decode: %s", error)
            raise

    def _setup_draft_batch_and_resources(self, scheduled_batch: ScheduledRequests) -> ScheduledRequests | None:
        batch = self._prepare_draft_batch(scheduled_batch)
        if batch.batch_size == 0:
            return None
        self.req_id_to_old_request = {request.py_request_id: request for request in scheduled_batch.all_requests()}
        for request in batch.all_requests():
            target = self.req_id_to_old_request[request.py_request_id]
            if not target.is_context_init_state:
                target.py_draft_tokens = [0] * self.max_draft_len
        self.draft_seq_slot_manager.prepare_resources(batch)
        return batch

    @nvtx_range("forward_draft_model")
    def forward_draft_model(
        self,
        draft_batch: ScheduledRequests,
        resource_manager: ResourceManager,
        is_first_draft_token: bool,
        previous_tensors: Any = None,
        num_accepted_tokens_device: Tensor | None = None,
    ) -> dict[str, Any]:
        """Run the drafter once."""
        outputs: dict[str, Any] = self.draft_model_engine.forward(
            draft_batch,
            resource_manager,
            new_tensors_device=previous_tensors,
            num_accepted_tokens_device=num_accepted_tokens_device,
            req_id_to_old_request=self.req_id_to_old_request,
        )
        if not self.use_static_draft_loop and hasattr(self.draft_model_engine.model.model, "d2t"):
            outputs["d2t"] = self.draft_model_engine.model.model.d2t.data
        return outputs

    def process_static_draft_outputs(
        self, outputs: dict[str, Tensor] | tuple[Tensor, SampleState], draft_batch: ScheduledRequests
    ) -> None:
        """Hand out what the chain loop drafted: tokens as tensors of no dimension, rows as a copy."""
        assert isinstance(outputs, dict), "the fake does not overlap rounds"
        assert self.req_id_to_old_request is not None
        tokens, logits = outputs["new_draft_tokens"].cpu(), outputs["draft_logits"]
        for i, request in enumerate(draft_batch.all_requests()):
            target = self.req_id_to_old_request[request.py_request_id]
            if target.state is not LlmRequestState.GENERATION_IN_PROGRESS:
                continue
            steps = range(self.max_total_draft_tokens)
            target.py_draft_tokens = [tokens[step][i] for step in steps]
            if self.disable_overlap_scheduler:
                target.py_draft_logits = torch.stack([logits[step][i] for step in steps])

    def _execute_draft_loop(
        self,
        draft_batch: ScheduledRequests,
        resource_manager: ResourceManager,
        target_inputs: Any = None,
        num_draft_reqs: int | None = None,
        initial_draft_state: SampleState | None = None,
    ) -> SampleState | None:
        """Step by step; the batch that the first state knows is the one that is filled anew each time."""
        draft_batch.generation_requests = draft_batch.context_requests + draft_batch.generation_requests
        draft_batch.context_requests = []
        previous = initial_draft_state
        self.draft_tokens_accumulator = {}
        for i in range(self.max_draft_len - 1):
            if not draft_batch.generation_requests:
                break
            outputs = self.forward_draft_model(
                draft_batch,
                resource_manager,
                is_first_draft_token=False,
                previous_tensors=previous.device if previous else None,
            )
            if previous is not None:
                self.update_requests(previous, resource_manager)
            state = self.sample_async(draft_batch, outputs, resource_manager)
            self.update_request_states(draft_batch)
            going_on: list[LlmRequest] = []
            if state is not None and previous is not None:
                going_on = self.process_decoded_tokens(previous.scheduled_requests, draft_position=i + 1)
            draft_batch.generation_requests = going_on
            previous = state
        return previous

    def process_decoded_tokens(
        self, draft_batch: ScheduledRequests, draft_position: int, cleanup_resources: bool = True
    ) -> list[LlmRequest]:
        """Put a step's tokens aside; returns who goes on."""
        assert self.req_id_to_old_request is not None
        going_on = []
        for request in draft_batch.all_requests():
            target = self.req_id_to_old_request[request.py_request_id]
            if target.state is not LlmRequestState.GENERATION_IN_PROGRESS:
                self.draft_seq_slot_manager.free_resources(request)
                continue
            kept = self.draft_tokens_accumulator.setdefault(request.py_request_id, [0] * self.max_total_draft_tokens)
            kept[draft_position - 1] = request.get_last_tokens(0)
            logits = request.py_result.generation_logits
            if logits is not None:
                assert logits.size(0) == 1
                logits = logits.squeeze(0)
            # None is handed on too.
            target.py_draft_logits = logits
            is_over = request.state is LlmRequestState.GENERATION_COMPLETE
            if not is_over and draft_position < target.py_draft_pages_allocated:
                going_on.append(request)
            elif cleanup_resources:
                self.draft_seq_slot_manager.free_resources(request)
        return going_on

    def process_dynamic_draft_outputs(
        self, outputs: SampleState, resource_manager: ResourceManager | None = None, cleanup_resources: bool = True
    ) -> None:
        """The last step's tokens, and with them all."""
        self.update_requests(outputs, resource_manager)
        self.process_decoded_tokens(outputs.scheduled_requests, self.max_draft_len, cleanup_resources)
        self._hand_out()

    def _hand_out(self) -> None:
        assert self.req_id_to_old_request is not None
        for request_id, tokens in self.draft_tokens_accumulator.items():
            self.req_id_to_old_request[request_id].py_draft_tokens = tokens
