"""The sampler of the PyTorch workflow: `TorchSampler`, whose parts stand in the files beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tensorrt_llm._torch.flashinfer_utils import IS_FLASHINFER_AVAILABLE  # noqa: F401
from tensorrt_llm._torch.pyexecutor import _sampler_base, _sampler_requests, _sampler_states
from tensorrt_llm._torch.pyexecutor._sampler_base import Sampler
from tensorrt_llm._torch.pyexecutor._sampler_drawing import Drawing
from tensorrt_llm._torch.pyexecutor._sampler_finishing import Finishing
from tensorrt_llm._torch.pyexecutor._sampler_log_probs import ProcessedLogProbs, TopLogProbs
from tensorrt_llm._torch.pyexecutor._sampler_memory import Memory
from tensorrt_llm._torch.pyexecutor._sampler_requests import _request_get_sampling_params, add_token
from tensorrt_llm._torch.pyexecutor._sampler_rows import PackedRows
from tensorrt_llm._torch.pyexecutor._sampler_states import (
    SampleStateTensors,
    SampleStateTensorsHostTorch,
    SampleStateTorch,
)
from tensorrt_llm._torch.pyexecutor._sampler_verification import Verification
from tensorrt_llm._torch.pyexecutor.llm_request import (
    LlmRequest,
    LlmRequestState,
    get_draft_token_length,
)
from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager, ResourceManagerType  # noqa: F401
from tensorrt_llm._torch.pyexecutor.sampling_utils import (  # noqa: F401
    GREEDY,
    GroupedStrategySampler,
    SimpleGroupedStrategySampler,
    UtilsSamplingParams,
    get_rejected_indices,
    resolve_sampling_strategy,
    sample,
    sample_rejected,
)
from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
from tensorrt_llm._torch.speculative.interface import get_force_num_accepted_tokens
from tensorrt_llm._utils import nvtx_range
from tensorrt_llm.bindings.executor import FinishReason
from tensorrt_llm.sampling_params import SamplingParams
from tests.trtllm_fake.parts import made_of, reported_by
from tests.trtllm_fake.stage import current
from tests.trtllm_fake.stream import CopyStream, CpuEvent

SHAPE = current().shape
DEFAULT_BEAM_IDX = 0
DEFAULT_STEP_IDX = 0
FinishReasonsList = list[list[int]]

_parts = [_sampler_base, _sampler_requests, _sampler_states]
_bases: tuple[type, ...] = (Sampler,)
if SHAPE.since_1_2_0:
    from tensorrt_llm._torch.pyexecutor import _sampler_copies

    _parts.append(_sampler_copies)
    _bases = (Sampler, _sampler_copies.AsyncWorkerMixin)
if SHAPE.since_1_3_0:
    from tensorrt_llm._torch.pyexecutor._sampler_states import LogProbsState, LogProbsStateList
    from tensorrt_llm._torch.pyexecutor.sampling_utils import BEAM_SEARCH_PAD_TOKEN  # noqa: F401
    from tensorrt_llm.sampling_params import LogprobMode  # noqa: F401

# All that the parts define is this module's, by name and by what it says of itself.
for _part in _parts:
    for _name, _thing in list(vars(_part).items()):
        if getattr(_thing, "__module__", None) == _part.__name__:
            reported_by(__name__, _thing)
            globals()[_name] = _thing


@made_of(Memory, Finishing, PackedRows, ProcessedLogProbs if SHAPE.since_1_3_0 else TopLogProbs, Verification, Drawing)
class TorchSampler(*_bases):  # type: ignore[misc]
    """Samples for the target's batches, and for the drafter's where it drafts step by step."""

    SampleState = SampleStateTorch
    if SHAPE.since_1_3_0:
        DEFAULT_MAX_TOPK_LOGPROBS = 20

    def __init__(self, args: Memory.Args) -> None:
        self.max_seq_len = args.max_seq_len
        self.max_tokens = args.max_total_draft_tokens + 1
        self.max_beam_width = args.max_beam_width
        if args.max_total_draft_tokens > 0 and args.max_beam_width > 1:
            raise ValueError("TorchSampler does not support beam search with speculative decoding")
        if args.max_beam_width > 1:
            raise NotImplementedError("the fake has no beam search")
        self.max_num_sequences = args.max_num_sequences
        self.NEW_TOKENS_SHAPE = (self.max_tokens, self.max_num_sequences, self.max_beam_width)
        window = self.max_seq_len + (not args.disable_overlap_scheduler)
        self.CACHE_INDIRECTION_SHAPE = (self.max_num_sequences, self.max_beam_width, window)
        if SHAPE.since_1_3_0:
            self.LOGPROBS_SHAPE = (self.max_num_sequences, self.max_beam_width, self.max_tokens)
            self.max_topk_logprobs = self.DEFAULT_MAX_TOPK_LOGPROBS
            self.batch_max_topk_logprobs = 0
            self.TOPK_LOGPROBS_SHAPE = (self.max_num_sequences, self.max_tokens, self.max_topk_logprobs)
        with torch.inference_mode(False):
            self.store = self._create_store() if SHAPE.since_1_3_0 else self.create_store()
            self._reason_tensors = {reason: torch.tensor(reason.value, dtype=torch.int) for reason in FinishReason}
            if SHAPE.since_1_3_0:
                self._max_tokens_offset = torch.arange(1, self.max_tokens + 1, dtype=torch.int).view(-1, 1, 1)
        self._grouped_sampler_cls: type[GroupedStrategySampler] = SimpleGroupedStrategySampler
        self._global_seed = 42
        self._generator: torch.Generator | None = None
        self._force_num_accepted_tokens = get_force_num_accepted_tokens()
        self._stream = CopyStream()
        if SHAPE.since_1_2_0:
            self._async_worker_init(args.enable_async_worker)

    @property
    def _use_beam_search(self) -> bool:
        return self.max_beam_width > 1

    def get_cache_indirection(self) -> Tensor | None:
        """Where beams come from."""
        return self.store.cache_indirection

    def is_generation_model(self) -> bool:
        """It is."""
        return True

    def get_generator(self, device: torch.device) -> torch.Generator:
        """The one that all draws come from, whatever seeds requests have."""
        if self._generator is None:
            self._generator = torch.Generator(device=device)
            self._generator.manual_seed(self._global_seed)
        assert self._generator.device == device
        return self._generator

    def should_provide_draft_probs(self, request: LlmRequest) -> bool:
        """Where anything is left to chance."""
        params = _request_get_sampling_params(request)
        further = {"use_beam_search": self._use_beam_search} if SHAPE.since_1_3_0 else {}
        return not SamplingParams.params_imply_greedy_decoding(
            temperature=params.temperature, top_p=params.top_p, top_k=params.top_k, **further
        )

    def _to_host(self, tensor: Tensor) -> Tensor:
        return self._copy_to_host(tensor) if SHAPE.since_1_2_0 else self._stream.copy_to_host(tensor)

    @torch.inference_mode()
    @nvtx_range("sample_async")
    def sample_async(
        self,
        scheduled_requests: ScheduledRequests,
        model_outputs: dict[str, Tensor],
        num_context_logits_prefix_sum: list[int],
        resource_manager: ResourceManager | None = None,
    ) -> SampleStateTorch:
        """Begin to sample: one token for each row of each request."""
        self.setup_sampler_step(scheduled_requests)
        requests = scheduled_requests.all_requests()
        slots = torch.tensor([request.py_seq_slot for request in requests], dtype=torch.int64)
        lengths = torch.tensor([request.max_beam_num_tokens for request in requests], dtype=torch.int32)
        wants_log_probs = any(request.py_return_log_probs for request in requests)
        further: dict[str, Any] = {"seq_lens": lengths}
        if not SHAPE.since_1_3_0:
            further = {"return_log_probs": wants_log_probs, "resource_manager": resource_manager}
        new_tokens_host = self._process_requests(
            scheduled_requests,
            model_outputs,
            self.store.new_tokens,
            num_context_logits_prefix_sum,
            seq_slots=slots,
            **further,
        )
        self._write_finish_reasons(
            requests,
            finish_reasons=self.store.finish_reasons,
            seq_slots=slots,
            new_tokens=self.store.new_tokens,
            **({"seq_lens": lengths} if SHAPE.since_1_3_0 else {}),
        )
        host = SampleStateTensorsHostTorch(
            new_tokens=new_tokens_host,
            finish_reasons=self._to_host(self.store.finish_reasons),
            first_finish_reasons=None,
            **({"logprobs_state": self._log_probs_to_host() if wants_log_probs else None} if SHAPE.since_1_3_0 else {}),
        )
        return SampleStateTorch(
            scheduled_requests=scheduled_requests,
            device=SampleStateTensors(new_tokens=self.store.new_tokens),
            host=host,
            sampler_event=self._event(),
            beam_histories=[None] * len(requests),
        )

    def _event(self) -> Any:
        if SHAPE.since_1_2_0:
            return self._record_sampler_event()
        event = CpuEvent(self._stream)
        event.record()
        return event

    def _log_probs_to_host(self) -> Any:
        return LogProbsState(
            topk_vals=self._to_host(self.store.topk_vals[..., : self.batch_max_topk_logprobs]),
            topk_indices=self._to_host(self.store.topk_indices[..., : self.batch_max_topk_logprobs]),
            sampled_vals=self._to_host(self.store.sampled_log_probs),
            sampled_indices=self._to_host(self.store.sampled_log_prob_indices),
            sampled_rank=self._to_host(self.store.sampled_log_prob_ranks),
        )

    @nvtx_range("update_requests")
    @torch.inference_mode()
    def update_requests(self, state: SampleStateTorch, resource_manager: ResourceManager | None = None) -> None:
        """Give what was sampled to the requests: prompts first, then what generates."""
        assert isinstance(state, SampleStateTorch)
        if state.sampler_event:
            state.sampler_event.synchronize()
        assert state.host is not None
        reasons, tokens = state.host.finish_reasons_list(), state.host.new_tokens.tolist()
        further = {}
        if SHAPE.since_1_3_0:
            given = state.host.logprobs_state
            further["logprobs_state_list"] = None if given is None else LogProbsStateList.from_logprobs_state(given)
        for request in state.scheduled_requests.context_requests:
            if request.state is LlmRequestState.GENERATION_COMPLETE or request.context_remaining_length != 0:
                continue
            add_token(request, tokens, beam_idx=DEFAULT_BEAM_IDX)
            self.handle_logprobs(request, count=1, **further)
            self._handle_finish_reasons(request, state.host.finish_reasons, reasons)
            request.py_decoding_iter += 1
        for request in state.scheduled_requests.generation_requests:
            if request.state is LlmRequestState.GENERATION_COMPLETE:
                continue
            accepted = self.process_draft_tokens(
                request,
                new_tokens_tensor=state.host.new_tokens,
                new_tokens_list=tokens,
                finish_reasons=reasons,
                resource_manager=resource_manager,
            )
            drafted = get_draft_token_length(request)
            request.py_num_accepted_draft_tokens = accepted if drafted else 0
            request.py_rewind_len = drafted - accepted if drafted else 0
            self.handle_logprobs(request, count=1 + accepted, **further)
            request.py_decoding_iter += 1
