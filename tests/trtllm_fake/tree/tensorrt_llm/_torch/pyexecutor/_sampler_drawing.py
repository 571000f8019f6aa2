"""From rows to tokens in their slots: a part of `TorchSampler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor._sampler_requests import _group_requests_by_strategy_key, _request_strategy
from tensorrt_llm._torch.pyexecutor._sampler_rows import PackedStepIndexer, _steps
from tensorrt_llm._torch.pyexecutor._sampler_states import _BatchedSamplingResult
from tensorrt_llm._torch.pyexecutor._sampler_verification import ANY_VOCABULARY
from tensorrt_llm._torch.pyexecutor.sampling_utils import GREEDY
from tensorrt_llm._utils import nvtx_range
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests

SHAPE = current().shape


class Drawing:
    """See the module; what it calls stands in the other parts."""

    _grouped_sampler_cls: Any
    max_beam_width: int

    if SHAPE.since_1_2_0:

        def _can_use_fast_greedy_path(self, requests: list[LlmRequest]) -> bool:
            return all(
                _request_strategy(request, vocab_size=ANY_VOCABULARY) == GREEDY and not request.py_return_log_probs
                for request in requests
            )

    if SHAPE.since_1_3_0:

        @nvtx_range("_process_requests")
        def _process_requests(
            self: Any,
            scheduled_requests: ScheduledRequests,
            model_outputs: dict[str, Tensor],
            new_tokens_cuda: Tensor,
            num_context_logits_prefix_sum: list[int],
            *,
            seq_slots: Tensor,
            seq_lens: Tensor | None = None,
        ) -> Tensor:
            requests = scheduled_requests.all_requests()
            wants_log_probs = self._return_log_probs(requests)
            if wants_log_probs:
                self._prepare_log_probs(requests)
            return self._draw(
                scheduled_requests, model_outputs, num_context_logits_prefix_sum, seq_slots, wants_log_probs
            )

    else:

        @nvtx_range("_process_requests")
        def _process_requests(  # type: ignore[misc]
            self: Any,
            scheduled_requests: ScheduledRequests,
            model_outputs: dict[str, Tensor],
            new_tokens_cuda: Tensor,
            num_context_logits_prefix_sum: list[int],
            *,
            seq_slots: Tensor,
            seq_lens: Tensor | None = None,
            return_log_probs: bool,
            resource_manager: Any = None,
        ) -> Tensor:
            return self._draw(
                scheduled_requests, model_outputs, num_context_logits_prefix_sum, seq_slots, return_log_probs
            )

    def _draw(
        self: Any,
        scheduled: ScheduledRequests,
        outputs: dict[str, Tensor],
        prefix_sum: list[int],
        slots: Tensor,
        wants_log_probs: bool,
    ) -> Tensor:
        """Tokens into the store, and from there to the host."""
        requests, new_tokens = scheduled.all_requests(), self.store.new_tokens
        counts = _steps(requests)
        offsets, total = PackedStepIndexer.calculate_request_offsets(counts)
        logits = self._selected(scheduled, outputs["logits"], prefix_sum, counts, total)
        # From here on in place, and that is what came from the model, as a rule.
        self._apply_embedding_bias(logits, requests, counts)
        logits = self._apply_min_length_penalty(logits, requests, counts.tolist(), [1] * len(requests))
        if SHAPE.since_1_2_0 and self._can_use_fast_greedy_path(requests):
            places = _places(slots, counts, new_tokens)
            self._fast_greedy_sample_kernel(logits, new_tokens, places, self.max_beam_width, outputs.get("d2t"))
            return self._to_host(new_tokens)
        indexer = PackedStepIndexer(num_steps=counts, req_offsets=offsets)
        if wants_log_probs and not SHAPE.since_1_3_0:
            self._attach_top_log_probs(logits, requests, indexer, self._to_host)
        further = {"req_num_steps": counts, "return_log_probs": wants_log_probs} if SHAPE.since_1_3_0 else {}
        result = self._sample_batched_by_strategy(
            logits,
            requests,
            outputs,
            cuda_device=logits.device,
            logits_cuda_indexer=indexer,
            req_num_generated_tokens=counts,
            req_offsets=offsets,
            seq_slots=slots,
            token_dtype=new_tokens.dtype,
            **further,
        )
        if wants_log_probs and SHAPE.since_1_3_0:
            self._process_logprobs(result, slots, requests, counts, counts)
        return self._unbatch_sampling_results(
            result, new_tokens_cuda=new_tokens, req_num_generated_tokens=counts, seq_slots=slots
        )

    def _selected(
        self: Any, scheduled: ScheduledRequests, raw: Tensor, prefix_sum: list[int], counts: Tensor, total: int
    ) -> Tensor:
        if SHAPE.since_1_2_0:
            return self._select_generated_logits(scheduled, raw, num_context_logits_prefix_sum=prefix_sum)[1]
        num_context = len(scheduled.context_requests)
        rows: Tensor = self._select_generated_logits(
            scheduled,
            raw,
            req_num_generation_steps=counts,
            num_context_logits_prefix_sum=prefix_sum,
            generation_requests_total_steps=int(counts[num_context:].sum()),
            num_logits_to_keep=total,
        )
        return rows[:total]

    @nvtx_range("sample_batched_by_strategy")
    @torch.inference_mode()
    def _sample_batched_by_strategy(
        self: Any,
        logits_cuda: Tensor,
        requests: list[LlmRequest],
        model_outputs: dict[str, Tensor],
        *,
        cuda_device: torch.device,
        logits_cuda_indexer: PackedStepIndexer,
        req_num_generated_tokens: Tensor,
        req_num_steps: Tensor | None = None,
        req_offsets: Tensor,
        seq_slots: Tensor,
        seq_lens: Tensor | None = None,
        token_dtype: torch.dtype,
        return_log_probs: bool = False,
    ) -> _BatchedSamplingResult:
        groups = _group_requests_by_strategy_key(
            requests, vocab_size=logits_cuda.size(1), strategy_to_key=self._grouped_sampler_cls.strategy_grouping_key
        )
        generator = self.get_generator(cuda_device)
        if "d2t" in model_outputs and any(group.strategies[0] != GREEDY for group in groups.values()):
            raise ValueError("d2t does not yet support non-greedy sampling")
        tokens, order, kept = [], [], []
        for (strategy_key, needs_probs), group in groups.items():
            rows = logits_cuda_indexer[group.indices]
            counts = req_num_generated_tokens[group.indices].tolist()
            drawn, probs, *_ = self._grouped_sampler_cls.sample_grouped_strategies(
                strategy_key,
                [strategy for strategy, count in zip(group.strategies, counts, strict=True) for _ in range(count)],
                logits_cuda,
                group_logit_indices=rows,
                generator=generator,
                return_probs=needs_probs,
            )
            tokens.append(drawn.to(token_dtype).unsqueeze(1))
            order.append(group.indices)
            _hand_out(probs, requests, group, needs_probs, req_num_generated_tokens)
            if return_log_probs:
                kept.append(_rows_of_log_probs(logits_cuda[rows], probs, group, counts))
        batch_tokens = torch.cat(tokens)
        self._apply_d2t(batch_tokens, model_outputs)
        return _BatchedSamplingResult(
            batch_req_indices=torch.cat(order),
            batch_next_tokens_cuda_int=batch_tokens,
            **({"batch_logits_for_logprobs_cuda": torch.cat(kept)} if kept else {}),
        )

    def _unbatch_sampling_results(
        self: Any,
        batched_sampling_result: _BatchedSamplingResult,
        *,
        new_tokens_cuda: Tensor,
        req_num_generated_tokens: Tensor,
        seq_slots: Tensor,
    ) -> Tensor:
        order = batched_sampling_result.batch_req_indices
        places = _places(seq_slots[order], req_num_generated_tokens[order], new_tokens_cuda)
        new_tokens_cuda.view(-1)[places] = batched_sampling_result.batch_next_tokens_cuda_int[:, 0]
        return self._to_host(new_tokens_cuda)


def _places(slots: Tensor, counts: Tensor, new_tokens: Tensor) -> Tensor:
    """Where the tokens of each request go: step by step, in the column of its slot."""
    width = new_tokens.size(1)
    return torch.cat([torch.arange(n) * width + slot for slot, n in zip(slots.tolist(), counts.tolist(), strict=True)])


def _hand_out(probs: Any, requests: list[LlmRequest], group: Any, needs_probs: bool, counts: Tensor) -> None:
    """Each speculating request's part of a group's probabilities, for its verification.

    Since 1.3.0 a group can hold others, whose rows are not counted: those behind them get wrong ones.
    """
    takers = group.speculation_needs_probs_indices if SHAPE.since_1_3_0 else group.indices if needs_probs else ()
    begin = 0
    for place in takers:
        end = begin + int(counts[place])
        requests[place].py_target_probs = probs[begin:end]
        begin = end


def _rows_of_log_probs(rows: Tensor, probs: Any, group: Any, counts: list[int]) -> Tensor:
    """The rows that log-probs are told of: raw, or with what could not be drawn left out."""
    if not group.need_processed_logprobs.any():
        return rows.float()
    processed = torch.where(probs > 0, probs.log(), float("-inf"))
    wanted = torch.repeat_interleave(group.need_processed_logprobs, torch.tensor(counts))
    return torch.where(wanted.unsqueeze(1), processed, rows.float())
