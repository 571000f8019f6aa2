"""Which rows are whose, and what is added to them: a part of `TorchSampler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, get_draft_token_length
from tensorrt_llm._utils import nvtx_range
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests

SHAPE = current().shape

if SHAPE.since_1_2_0:
    from tensorrt_llm._torch.pyexecutor._sampler_states import SamplingRequestsMetadata


class PackedStepIndexer:
    """The rows of requests that are picked by their place in the batch.

    Args:
        num_steps: Rows of each request.
        req_offsets: Where they begin.
    """

    def __init__(self, *, num_steps: Tensor, req_offsets: Tensor) -> None:
        self._rows = [
            torch.arange(begin, begin + count)
            for begin, count in zip(req_offsets.tolist(), num_steps.tolist(), strict=True)
        ]

    def __getitem__(self, req_indices: Tensor | slice) -> Tensor:
        chosen = range(len(self._rows))[req_indices] if isinstance(req_indices, slice) else req_indices.tolist()
        return torch.cat([self._rows[i] for i in chosen])

    @staticmethod
    def calculate_request_offsets(req_num_steps: Tensor) -> tuple[Tensor, int]:
        """Where each request's rows begin if they lie one behind the other, and how many there are."""
        ends = torch.cumsum(req_num_steps, 0)
        return ends - req_num_steps, int(ends[-1]) if len(ends) else 0


class PackedRows:
    """See the module."""

    if SHAPE.since_1_2_0:

        @staticmethod
        def _select_generated_logits(
            scheduled_requests: ScheduledRequests, raw_logits_cuda: Tensor, *, num_context_logits_prefix_sum: list[int]
        ) -> tuple[SamplingRequestsMetadata, Tensor]:
            steps = _steps(scheduled_requests.all_requests())
            offsets, total = PackedStepIndexer.calculate_request_offsets(steps)
            metadata = SamplingRequestsMetadata(
                req_num_generated_tokens=steps,
                req_num_generated_tokens_output=steps.clone(),
                req_num_beams=torch.ones_like(steps),
                req_num_steps=steps.clone(),
                req_offsets=offsets,
            )
            rows = _generated_rows(scheduled_requests, raw_logits_cuda, steps, num_context_logits_prefix_sum, total)
            return metadata, rows[:total]

    else:

        @staticmethod
        def _select_generated_logits(  # type: ignore[misc]
            scheduled_requests: ScheduledRequests,
            raw_logits_cuda: Tensor,
            *,
            req_num_generation_steps: Tensor,
            num_context_logits_prefix_sum: list[int],
            generation_requests_total_steps: int,  # noqa: ARG004
            num_logits_to_keep: int,
        ) -> Tensor:
            return _generated_rows(
                scheduled_requests,
                raw_logits_cuda,
                req_num_generation_steps,
                num_context_logits_prefix_sum,
                num_logits_to_keep,
            )

    @staticmethod
    def _apply_d2t(tokens: Tensor, model_outputs: dict[str, Any]) -> None:
        if "d2t" in model_outputs:
            tokens += model_outputs["d2t"][tokens.long()].to(tokens.dtype)

    if SHAPE.since_1_2_0:

        @staticmethod
        @nvtx_range("fast_greedy_sample_kernel")
        def _fast_greedy_sample_kernel(
            logits_cuda: Tensor,
            new_tokens_cuda: Tensor,
            batch_dest_indices: Tensor,
            max_beam_width: int,  # noqa: ARG004
            d2t: Tensor | None,
        ) -> None:
            tokens = torch.argmax(logits_cuda, dim=-1)
            if d2t is not None:
                tokens += d2t[tokens]
            new_tokens_cuda.view(-1)[batch_dest_indices] = tokens.to(new_tokens_cuda.dtype)

    @staticmethod
    def _apply_embedding_bias(logits: Tensor, requests: list[LlmRequest], request_steps: Tensor) -> None:
        """In place; the rows are counted from the request's number, which is where they begin without drafts only."""
        biases: list[Tensor] = []
        mask = torch.zeros(logits.size(0), dtype=torch.bool)
        bias = None
        for i, (request, steps) in enumerate(zip(requests, request_steps.tolist(), strict=True)):
            bias = request._py_embedding_bias_1d
            if bias is not None:
                mask[i : i + steps] = True
                biases += [bias] * steps
        if not biases:
            return
        # It looks at the last request's, which need not have one.
        assert bias is not None
        logits[mask] += torch.stack(biases)

    @staticmethod
    @torch.inference_mode()
    def _apply_min_length_penalty(
        logits: Tensor,
        requests: list[LlmRequest],
        num_steps: list[int],
        num_beams: list[int],  # noqa: ARG004
    ) -> Tensor:
        """In place; an end id of -1 bans the last token of the vocabulary, and None bans them all."""
        if any(r.py_min_length and r.max_beam_num_tokens < r.py_min_length[0] for r in requests):
            offset = 0
            for request, steps in zip(requests, num_steps, strict=True):
                for step in range(steps if request.py_min_length else 0):
                    if request.get_num_tokens(0) + step >= request.py_min_length[0]:
                        break
                    logits[offset + step, request.py_end_id] = float("-inf")
                offset += steps
        return logits


def _steps(requests: list[LlmRequest]) -> Tensor:
    return torch.tensor([1 + get_draft_token_length(request) for request in requests], dtype=torch.int32)


def _generated_rows(
    scheduled: ScheduledRequests, raw: Tensor, steps: Tensor, prefix_sum: list[int], total: int
) -> Tensor:
    """The rows that are sampled from: all of them, a view, unless a prompt has a row for each of its tokens."""
    context = scheduled.context_requests
    if not any(request.py_return_context_logits for request in context):
        return raw
    assert len(prefix_sum) == len(context) + 1
    kept = [torch.arange(end - int(count), end) for end, count in zip(prefix_sum[1:], steps, strict=False)]
    behind = prefix_sum[-1]
    kept.append(torch.arange(behind, behind + total - sum(map(len, kept))))
    return raw[torch.cat(kept)]
