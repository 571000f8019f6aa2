"""Logits that requests asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState
from tensorrt_llm._utils import nvtx_range
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from torch import Tensor


class HandleLogits:
    """Puts rows aside for the responses.

    What generates is taken to have one row for each beam: of a request with drafts, and of those behind it, it takes
    others' rows.
    """

    @torch.inference_mode()
    @nvtx_range("handle_logits")
    def __call__(
        self,
        context_requests: list[LlmRequest],
        generation_requests: list[LlmRequest],
        logits: Tensor,
        beam_width: int,
        num_context_logits_prefix_sum: list[int],
        is_generation_model: bool,
    ) -> None:
        """Put them aside."""
        for i, request in enumerate(context_requests):
            begin, end = num_context_logits_prefix_sum[i : i + 2]
            if request.py_return_context_logits:
                request.py_result.append_context_logits(logits[begin:end])
            if request.py_return_generation_logits and request.is_last_context_chunk:
                request.py_result.append_generation_logits(logits[end - 1 : end].unsqueeze(1))
        begin = num_context_logits_prefix_sum[-1]
        for request in generation_requests:
            if request.py_return_generation_logits and request.state is not LlmRequestState.GENERATION_COMPLETE:
                request.py_result.append_generation_logits(logits[begin : begin + beam_width].unsqueeze(0))
            begin += beam_width
        if current().finish_chunks:
            for request in context_requests + generation_requests:
                request.py_result.transfer_remaining_device_logits()
