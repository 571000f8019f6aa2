"""What a sampler keeps for each slot: a part of `TorchSampler`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor._sampler_requests import int_tensor
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests

SHAPE = current().shape


class Memory:
    """See the module."""

    NEW_TOKENS_SHAPE: tuple[int, int, int]
    LOGPROBS_SHAPE: tuple[int, int, int]
    TOPK_LOGPROBS_SHAPE: tuple[int, int, int]
    max_num_sequences: int
    max_seq_len: int
    store: Store

    @dataclass(frozen=not SHAPE.since_1_3_0, kw_only=True)
    class Store:
        """Memory on the device; what a slot's rows hold beyond its own request's steps is what was there before."""

        new_tokens: Tensor
        finish_reasons: Tensor
        if SHAPE.since_1_3_0:
            max_lengths_tensor: Tensor
            end_ids: Tensor
            sampled_log_probs: Tensor
            sampled_log_prob_indices: Tensor
            sampled_log_prob_ranks: Tensor
            topk_vals: Tensor
            topk_indices: Tensor
        cache_indirection: Tensor | None = None
        cum_log_probs: Tensor | None = None
        first_finish_reasons: Tensor | None = None
        predecessor_beams: Tensor | None = None

        def __post_init__(self) -> None:
            assert self.new_tokens.shape == self.finish_reasons.shape

    @dataclass(frozen=True, kw_only=True)
    class Args:
        """How much room there must be."""

        max_seq_len: int
        max_draft_len: int
        max_num_sequences: int
        max_beam_width: int
        max_total_draft_tokens: int
        disable_overlap_scheduler: bool = False
        disable_flashinfer_sampling: bool = False
        if SHAPE.since_1_2_0:
            enable_async_worker: bool = False

    if SHAPE.since_1_3_0:

        def _create_store(self) -> Store:
            return self.Store(
                new_tokens=int_tensor(self.NEW_TOKENS_SHAPE),
                finish_reasons=int_tensor(self.NEW_TOKENS_SHAPE),
                max_lengths_tensor=int_tensor((self.max_num_sequences,)),
                end_ids=int_tensor((self.max_num_sequences,)),
                sampled_log_probs=torch.full(self.LOGPROBS_SHAPE, torch.nan),
                sampled_log_prob_indices=int_tensor(self.LOGPROBS_SHAPE),
                sampled_log_prob_ranks=int_tensor(self.LOGPROBS_SHAPE),
                topk_vals=torch.full(self.TOPK_LOGPROBS_SHAPE, torch.nan),
                topk_indices=int_tensor(self.TOPK_LOGPROBS_SHAPE),
            )

        def setup_sampler_step(self, scheduled_requests: ScheduledRequests) -> None:
            """Note the limits of the requests whose prompts end in this step, by their slots."""
            for request in scheduled_requests.context_requests:
                if self._is_new_request(request):
                    limit = min(self.max_seq_len, request.orig_prompt_len + request.py_max_new_tokens)
                    self.store.max_lengths_tensor[request.py_seq_slot] = limit
                    self.store.end_ids[request.py_seq_slot] = -1 if request.py_end_id is None else request.py_end_id

        def _is_new_request(self, request: LlmRequest) -> bool:
            if request.is_finished or request.py_is_draft:
                return False
            ends = request.is_context_init_state and request.is_last_context_chunk
            return ends or request.is_disagg_generation_transmission_complete

    else:

        def create_store(self) -> Store:
            """Take the memory."""
            return self.Store(
                new_tokens=int_tensor(self.NEW_TOKENS_SHAPE), finish_reasons=int_tensor(self.NEW_TOKENS_SHAPE)
            )

        def setup_sampler_step(self, requests: ScheduledRequests) -> None:  # type: ignore[misc]
            """Prepare beams, if there were any."""
