"""What a sampler hands from `sample_async` to `update_requests`; reported as part of ``sampler``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Iterator, ValuesView
    from concurrent.futures import Future

    from torch import Tensor

    from tensorrt_llm._torch.pyexecutor.sampling_utils import Strategy
    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
    from tests.trtllm_fake.stream import CpuEvent

SHAPE = current().shape


@dataclass(kw_only=True)
class SampleStateTensors:
    """Sampled tokens."""

    new_tokens: Tensor
    log_probs: Tensor | None = None

    def values(self) -> ValuesView[Any]:
        """Of all fields."""
        return vars(self).values()


if SHAPE.since_1_3_0:

    @dataclass(kw_only=True)
    class LogProbsState:
        """Log-probs on the host."""

        sampled_vals: Tensor
        sampled_indices: Tensor
        sampled_rank: Tensor
        topk_vals: Tensor
        topk_indices: Tensor

    @dataclass(kw_only=True)
    class LogProbsStateList:
        """The same as nested lists."""

        sampled_vals: list[Any]
        sampled_indices: list[Any]
        sampled_rank: list[Any]
        topk_vals: list[Any]
        topk_indices: list[Any]

        @staticmethod
        def from_logprobs_state(logprobs_state: LogProbsState) -> LogProbsStateList:
            """As lists."""
            return LogProbsStateList(**{name: value.tolist() for name, value in vars(logprobs_state).items()})


if SHAPE.since_1_2_0:

    @dataclass(kw_only=True)
    class SamplerEvent:
        """Behind all that a call has begun."""

        cuda_event: CpuEvent
        worker_futures: list[Future[Any]] | None = None

        def synchronize(self) -> None:
            """Wait for it."""
            for future in self.worker_futures or ():
                future.result()
            self.cuda_event.synchronize()

    @dataclass(kw_only=True)
    class SamplingRequestsMetadata:
        """Numbers of rows, one entry a request."""

        req_num_generated_tokens: Tensor
        req_num_generated_tokens_output: Tensor
        req_num_beams: Tensor
        req_num_steps: Tensor
        req_offsets: Tensor


@dataclass(kw_only=True)
class SampleState:
    """What was sampled, and for whom."""

    scheduled_requests: ScheduledRequests
    device: SampleStateTensors | None = None
    host: SampleStateTensors | None = None
    sampler_event: Any = None


@dataclass(kw_only=True)
class SampleStateTensorsHostTorch(SampleStateTensors):
    """Sampled tokens, and which of them end their request: by step, slot, beam."""

    finish_reasons: Tensor
    first_finish_reasons: Tensor | None
    if SHAPE.since_1_3_0:
        logprobs_state: LogProbsState | None = None

    def finish_reasons_list(self) -> list[list[list[int]]]:
        """By slot, step, beam."""
        nested: list[list[list[int]]] = self.finish_reasons.permute(1, 0, 2).tolist()
        return nested


@dataclass(kw_only=True)
class SampleStateTorch(SampleState):
    """`TorchSampler`'s."""

    host: SampleStateTensorsHostTorch
    beam_histories: list[Any] | None = None


if SHAPE.since_1_3_0:

    @dataclass(frozen=True, kw_only=True, slots=True)
    class RequestGroupKey:
        """What requests that are sampled together have in common."""

        strategy_key: Any
        needs_probs: bool

        def __iter__(self) -> Iterator[Any]:
            return iter((self.strategy_key, self.needs_probs))

        def __len__(self) -> int:
            return 2

    @dataclass(frozen=True, kw_only=True)
    class RequestGroupValue:
        """Which requests these are, by their place in the batch."""

        indices: Tensor
        strategies: list[Strategy]
        speculation_needs_probs_indices: Tensor
        need_processed_logprobs: Tensor
        need_raw_logprobs: Tensor

    @dataclass(kw_only=True, frozen=True)
    class _BatchedSamplingResult:
        batch_req_indices: Tensor
        batch_next_tokens_cuda_int: Tensor
        batch_logits_for_logprobs_cuda: Tensor | None = None

else:

    @dataclass(frozen=True, kw_only=True)
    class RequestGroupKey:  # type: ignore[no-redef]
        """What requests that are sampled together have in common."""

        strategy: Any
        speculation_needs_probs: bool

        def __iter__(self) -> Iterator[Any]:
            return iter((self.strategy, self.speculation_needs_probs))

        def __len__(self) -> int:
            return 2

    class RequestGroupValue(NamedTuple):  # type: ignore[no-redef]
        """Which requests these are, by their place in the batch."""

        indices: Tensor
        strategies: list[Strategy]

    @dataclass(kw_only=True, frozen=True)
    class _BatchedSamplingResult:  # type: ignore[no-redef]
        batch_req_indices: Tensor
        batch_next_tokens_cuda_int: Tensor
