"""A request as Python keeps it."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from tensorrt_llm._torch.pyexecutor._results import LlmResponse, LlmResult, LogitsStorage, PyResult
from tensorrt_llm.bindings import LlmRequestState, SamplingConfig
from tensorrt_llm.bindings.executor import FinishReason
from tensorrt_llm.bindings.executor import Request as ExecutorRequest
from tensorrt_llm.bindings.internal import batch_manager
from tests.trtllm_fake.parts import reported_by
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPE = current().shape

if SHAPE.since_1_3_0:
    from tensorrt_llm.sampling_params import LogprobMode

reported_by(__name__, LlmResponse, LlmResult, LogitsStorage, PyResult)

__all__ = [
    "ExecutorRequest",
    "FinishReason",
    "LlmRequest",
    "LlmRequestState",
    "LlmResponse",
    "LlmResult",
    "LogitsStorage",
    "PyResult",
    "convert_wordlist",
    "executor_request_to_llm_request",
    "get_draft_token_length",
]


class LlmRequest(batch_manager.LlmRequest):
    """A request, or the drafter's shadow of one."""

    def __init__(
        self,
        *args: Any,
        client_id: int | None = None,
        return_log_probs: bool = False,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        return_logits_device_memory: bool = True,
        exclude_last_generation_logits: bool = False,
        additional_outputs: list[str] | None = None,
        return_perf_metrics: bool = False,
        stop_words_list: list[list[int]] | None = None,
        llm_request: batch_manager.LlmRequest | None = None,
        is_draft: bool = False,
        seq_slot: int | None = None,
        target_seq_slot: int | None = None,
        num_logprobs: int = 0,
        is_first_draft: bool = False,
        use_chunked_generation_logits: bool = True,
        logits_chunk_size: int = 8,
        **kwargs: Any,
    ) -> None:
        if SHAPE.since_1_3_0:
            self.py_logprobs_mode = kwargs.pop("logprobs_mode", LogprobMode.RAW)
        self.py_logits_post_processors = kwargs.pop("py_logits_post_processors", None)
        self.py_lora_path = kwargs.pop("py_lora_path", None)
        self.py_multimodal_data = kwargs.pop("py_multimodal_data", None)
        if llm_request is not None:
            self.__dict__.update(vars(llm_request))
        else:
            super().__init__(
                *args,
                client_id=client_id,
                return_log_probs=return_log_probs,
                return_perf_metrics=return_perf_metrics,
                stop_words_list=torch.tensor(stop_words_list, dtype=torch.int32) if stop_words_list else None,
                **kwargs,
            )
        self.py_client_id = client_id
        self.py_request_id = self.request_id
        self.py_llm_request_type = self.llm_request_type
        self.py_end_id = self.end_id
        self.py_prompt_len = self.prompt_len
        self.py_orig_prompt_len = self.orig_prompt_len
        self.py_max_new_tokens = self.max_new_tokens
        self.py_min_length = self.sampling_config.min_length
        self.py_batch_idx: int | None = None
        self.py_last_context_chunk: tuple[int | None, int | None] = (None, None)
        self.py_decoding_iter = 0
        self.is_attention_dp_dummy = False
        self.is_cuda_graph_dummy = False
        self.py_num_logprobs = num_logprobs
        self.py_return_log_probs = return_log_probs
        self.py_return_context_logits = return_context_logits
        self.py_return_generation_logits = return_generation_logits
        self.py_additional_outputs = additional_outputs
        self.py_is_draft = is_draft
        self.py_seq_slot = seq_slot
        self.py_target_seq_slot = target_seq_slot
        self.use_draft_model = is_draft
        self.py_is_first_draft = is_first_draft
        self.py_use_chunked_generation_logits = use_chunked_generation_logits
        self.py_logits_chunk_size = 1 if self.streaming else logits_chunk_size
        self.py_stop_words_list = stop_words_list
        self._set_draft_attributes()
        self.py_result = PyResult(
            self.py_prompt_len,
            self.py_max_new_tokens,
            return_logits_device_memory,
            self.streaming,
            return_log_probs,
            return_context_logits,
            return_generation_logits,
            exclude_last_generation_logits,
            use_chunked_generation_logits=use_chunked_generation_logits,
            chunk_size=self.py_logits_chunk_size,
        )
        self.cached_tokens = 0
        self.child_requests: list[LlmRequest] = []
        bias = self.embedding_bias
        self._py_embedding_bias_1d = bias.squeeze(0) if bias is not None and bias.dim() > 1 else bias

    def _set_draft_attributes(self) -> None:
        self.py_draft_pages_allocated = 0
        self.py_rewind_len = 0
        self.py_draft_tokens: list[Any] = [] if self.draft_tokens is None else self.draft_tokens
        self.py_last_draft_tokens: list[Any] | None = None
        self.py_draft_logits: torch.Tensor | None = None
        self.py_target_probs: torch.Tensor | None = None
        self.py_num_accepted_draft_tokens = 0
        self.py_num_accepted_draft_tokens_indices: list[int] = []
        self.py_rewind_draft_token_separate_adjustment = 0
        self.py_draft_use_greedy_sampling = False
        self.d2t: torch.Tensor | None = None
        if SHAPE.since_1_2_0:
            self.py_disable_speculative_decoding = False

    @property
    def is_dummy(self) -> bool:
        """Whether nobody waits for it."""
        return self.is_attention_dp_dummy or self.is_cuda_graph_dummy or self.is_dummy_request

    def finish_by(self, reason: FinishReason, beam: int) -> None:
        """End the request, and say why this beam ended."""
        self.state = LlmRequestState.GENERATION_COMPLETE
        self.set_finished_reason(reason, beam)

    def create_response(self, use_fast_logits: bool = False, mpi_world_rank: int = 0) -> LlmResponse | None:
        """What is new; None where there is nothing to say."""
        result, is_final = super().create_serialized_result(use_fast_logits, mpi_world_rank)
        if result is None:
            return None
        return LlmResponse(
            request_id=self.py_request_id,
            result=LlmResult(result, self.py_result, is_final),
            client_id=self.py_client_id,
        )

    def create_child_request(self, child_id: int) -> None:
        """Another sequence of the same prompt; it gets copies of all that Python keeps under ``py_``."""
        child = batch_manager.LlmRequest(
            child_id,
            self.max_new_tokens,
            self.get_tokens(0),
            deepcopy(self.sampling_config),
            is_streaming=self.streaming,
            end_id=self.end_id,
            embedding_bias=self.embedding_bias,
            return_log_probs=self.return_log_probs,
            exclude_input_from_output=self.exclude_input_from_output,
            guided_decoding_params=self.guided_decoding_params,
            client_id=self.client_id,
            parent=self,
            sequence_index=len(self.child_requests) + 1,
        )
        if child.sampling_config.random_seed is not None:
            child.sampling_config.random_seed = [child.sampling_config.random_seed[0] + child.sequence_index]
        request = LlmRequest(llm_request=child)
        for name, value in vars(self).items():
            if name.startswith("py_"):
                setattr(request, name, deepcopy(value))
        request.py_request_id = child.request_id
        request.py_batch_idx = None
        request.py_seq_slot = None
        self.child_requests.append(request)


def get_draft_token_length(request: LlmRequest) -> int:
    """How many drafted tokens a request carries."""
    return len(request.py_draft_tokens) if request.py_draft_tokens is not None else 0


def convert_wordlist(word_list: Sequence[Sequence[int]]) -> list[list[int]]:
    """All words' tokens in a row, and where each word ends in it, padded with -1 to the same length."""
    if not word_list:
        return []
    tokens = [token for word in word_list for token in word]
    ends = [sum(map(len, word_list[: i + 1])) for i in range(len(word_list))]
    return [tokens, ends + [-1] * (len(tokens) - len(ends))]


def executor_request_to_llm_request(
    req_id: int,
    executor_request: ExecutorRequest,
    child_req_ids: Sequence[int],
    exclude_last_generation_logits: bool,
    input_token_ids: Sequence[int] | None = None,
    position_ids: Sequence[int] | None = None,
) -> LlmRequest:
    """The request for the loop, with its further sequences."""
    output = executor_request.output_config
    further = {}
    if SHAPE.since_1_3_0:
        further["logprobs_mode"] = getattr(executor_request, "py_logprobs_mode", LogprobMode.RAW)
    request = LlmRequest(
        request_id=req_id,
        max_new_tokens=executor_request.max_tokens,
        input_tokens=executor_request.input_token_ids if input_token_ids is None else input_token_ids,
        sampling_config=SamplingConfig(executor_request.sampling_config),
        is_streaming=executor_request.streaming,
        end_id=executor_request.end_id,
        pad_id=executor_request.pad_id,
        embedding_bias=executor_request.embedding_bias,
        stop_words_list=convert_wordlist(executor_request.stop_words) if executor_request.stop_words else None,
        return_log_probs=output.return_log_probs,
        num_logprobs=getattr(executor_request, "py_num_logprobs", 0),
        return_context_logits=output.return_context_logits,
        return_generation_logits=output.return_generation_logits,
        return_perf_metrics=output.return_perf_metrics,
        exclude_last_generation_logits=exclude_last_generation_logits,
        exclude_input_from_output=output.exclude_input_from_output,
        guided_decoding_params=executor_request.guided_decoding_params,
        client_id=req_id if executor_request.client_id is None else executor_request.client_id,
        py_logits_post_processors=getattr(executor_request, "py_logits_post_processors", None),
        py_lora_path=getattr(executor_request, "py_lora_path", None),
        **further,
    )
    for child_id in child_req_ids:
        request.create_child_request(child_id)
    return request
