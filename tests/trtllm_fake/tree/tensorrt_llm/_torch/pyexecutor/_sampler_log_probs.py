"""Log-probs of what was sampled: a part of `TorchSampler`.

They are those of the sampler's own tokens at each step. Where other tokens are committed they speak of tokens that
nobody gets.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest
from tensorrt_llm.executor.result import Logprob
from tests.trtllm_fake.stage import current

SHAPE = current().shape


class ProcessedLogProbs:
    """Since 1.3.0: by slot and step, in the store."""

    max_topk_logprobs: int
    batch_max_topk_logprobs: int
    max_num_sequences: int
    max_tokens: int
    store: Any

    def _return_log_probs(self, requests: list[LlmRequest]) -> bool:
        return any(request.py_return_log_probs for request in requests)

    def _prepare_log_probs(self, requests: list[LlmRequest]) -> None:
        self.batch_max_topk_logprobs = max((request.py_num_logprobs or 0 for request in requests), default=0)
        if self.max_topk_logprobs < self.batch_max_topk_logprobs:
            self.max_topk_logprobs = self.batch_max_topk_logprobs
            self.TOPK_LOGPROBS_SHAPE = (self.max_num_sequences, self.max_tokens, self.max_topk_logprobs)
            self.store.topk_vals.resize_(self.TOPK_LOGPROBS_SHAPE)
            self.store.topk_indices.resize_(self.TOPK_LOGPROBS_SHAPE)

    def _process_logprobs(
        self,
        batched_sampling_result: Any,
        seq_slots: Tensor,
        requests: list[LlmRequest],
        req_num_steps: Tensor,
        req_num_generated_tokens: Tensor,
    ) -> None:
        rows = batched_sampling_result.batch_logits_for_logprobs_cuda
        assert rows is not None
        begin, k = 0, self.batch_max_topk_logprobs
        for place in batched_sampling_result.batch_req_indices.tolist():
            slot, count = int(seq_slots[place]), int(req_num_steps[place])
            log_probs = torch.log_softmax(rows[begin : begin + count], dim=-1)
            tokens = batched_sampling_result.batch_next_tokens_cuda_int[begin : begin + count, :1]
            sampled = log_probs.gather(1, tokens.long())
            self.store.sampled_log_probs[slot, 0, :count] = sampled[:, 0]
            self.store.sampled_log_prob_indices[slot, 0, :count] = tokens[:, 0]
            self.store.sampled_log_prob_ranks[slot, 0, :count] = (log_probs > sampled).sum(-1).int()
            if k:
                top = log_probs.topk(k, dim=-1)
                self.store.topk_vals[slot, :count, :k] = top.values
                self.store.topk_indices[slot, :count, :k] = top.indices.int()
            begin += count

    def handle_logprobs(self, request: LlmRequest, logprobs_state_list: Any, *, count: int) -> None:
        """Give a request the log-probs of its first ``count`` steps."""
        if not request.py_return_log_probs:
            return
        assert request.py_num_logprobs is not None
        assert logprobs_state_list is not None
        slot, k = request.py_seq_slot, request.py_num_logprobs
        tables = []
        for step in range(count):
            values, tokens = logprobs_state_list.topk_vals[slot][step], logprobs_state_list.topk_indices[slot][step]
            table = {t: Logprob(v, rank=i + 1) for i, (t, v) in enumerate(zip(tokens[:k], values[:k], strict=True))}
            sampled = logprobs_state_list.sampled_indices[slot][0][step]
            if sampled not in table:
                value = logprobs_state_list.sampled_vals[slot][0][step]
                rank = logprobs_state_list.sampled_rank[slot][0][step]
                table[sampled] = Logprob(value, rank=max(len(values) + 1, rank + 1))
            tables.append(table)
        request.py_result.append_log_probs([tables])


class TopLogProbs:
    """Before 1.3.0: the likeliest tokens of each row, hung on the request."""

    def return_log_probs(self, scheduled_requests: Any) -> bool:
        """Whether anybody wants them."""
        return any(request.py_return_log_probs for request in scheduled_requests.all_requests())

    def _attach_top_log_probs(self, logits: Tensor, requests: list[LlmRequest], indexer: Any, to_host: Any) -> None:
        """Views of memory that is being filled."""
        wanted = [i for i, request in enumerate(requests) if request.py_num_logprobs]
        if not wanted:
            return
        log_probs = torch.log_softmax(logits[indexer[torch.tensor(wanted)]].float(), dim=-1)
        top = log_probs.topk(max(requests[i].py_num_logprobs for i in wanted), dim=-1)
        values, tokens = to_host(top.values), to_host(top.indices)
        begin = 0
        for i in wanted:
            end = begin + len(indexer[torch.tensor([i])])
            requests[i].py_topk_logprobs_vals = values[begin:end, : requests[i].py_num_logprobs]
            requests[i].py_topk_logprobs_indices = tokens[begin:end, : requests[i].py_num_logprobs]
            begin = end

    def handle_logprobs(self, request: LlmRequest, *, count: int) -> None:
        """Give a request the log-probs of its first ``count`` steps."""
        if not request.py_return_log_probs:
            return
        values = request.py_topk_logprobs_vals[:count].tolist()
        tokens = request.py_topk_logprobs_indices[:count].tolist()
        tables = [
            {token: Logprob(value, rank=i + 1) for i, (token, value) in enumerate(zip(ids, row, strict=True))}
            for ids, row in zip(tokens, values, strict=True)
        ]
        request.py_result.append_log_probs([tables])
