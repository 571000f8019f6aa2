"""What requests ask a sampler for; reported as part of ``sampler``."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor._sampler_states import RequestGroupKey, RequestGroupValue
from tensorrt_llm._torch.pyexecutor.sampling_utils import Strategy, UtilsSamplingParams, resolve_sampling_strategy
from tests.trtllm_fake.stage import current
from tests.trtllm_fake.stream import GARBAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest

SHAPE = current().shape

if SHAPE.since_1_3_0:
    from tensorrt_llm.sampling_params import LogprobMode


def add_token(request: LlmRequest, new_tokens: list[list[list[int]]], *, beam_idx: int, step: int = 0) -> int:
    """Commit what was sampled for a request at a step."""
    slot = request.py_seq_slot
    assert slot is not None
    token = new_tokens[step][slot][beam_idx]
    request.add_new_token(token, beam_idx)
    return token


def int_tensor(shape: tuple[int, ...], device: str = "cpu") -> Tensor:
    """Memory that nobody has written yet."""
    return torch.full(shape, GARBAGE, dtype=torch.int, device=device)


def _unwrap_singleton(p: list[Any] | None) -> Any:
    if p is None:
        return None
    (value,) = p
    return value


def _get_beam_width_in(request: LlmRequest) -> int:
    return 1 if request.is_context_init_state else request.get_beam_width_by_iter(for_next_iteration=False)


def _get_beam_width_out(request: LlmRequest) -> int:
    return request.get_beam_width_by_iter(for_next_iteration=True)


def _get_max_beam_width(request: LlmRequest) -> int:
    return int(request.sampling_config.beam_width)


def _request_get_sampling_params(request: LlmRequest) -> UtilsSamplingParams:
    config = request.sampling_config
    return UtilsSamplingParams(
        temperature=_unwrap_singleton(config.temperature),
        top_p=_unwrap_singleton(config.top_p),
        top_k=_unwrap_singleton(config.top_k),
        beam_width_in=_get_beam_width_in(request),
        beam_width_out=_get_beam_width_out(request),
        use_beam_search=_get_max_beam_width(request) > 1,
    )


if SHAPE.since_1_2_0:

    def _request_sampling_params_cachable(params: UtilsSamplingParams) -> bool:
        return not params.use_beam_search


def _request_strategy(request: LlmRequest, *, vocab_size: int) -> Strategy:
    if SHAPE.since_1_2_0 and hasattr(request, "py_sampling_strategy"):
        return request.py_sampling_strategy
    params = _request_get_sampling_params(request)
    strategy = resolve_sampling_strategy(params, vocab_size=vocab_size)
    if SHAPE.since_1_2_0 and _request_sampling_params_cachable(params):
        request.py_sampling_strategy = strategy
    return strategy


def _group_requests_by_strategy_key(
    requests: Iterable[LlmRequest],
    *,
    strategy_to_key: Callable[[Strategy, bool], Any],
    pin_memory: bool = False,
    vocab_size: int,
) -> dict[Any, Any]:
    from tensorrt_llm._torch.pyexecutor.sampler import TorchSampler

    groups: dict[tuple[Any, bool], list[tuple[int, Strategy, bool, Any]]] = defaultdict(list)
    for i, request in enumerate(requests):
        strategy = _request_strategy(request, vocab_size=vocab_size)
        # By the class's name: what a subclass says instead is not heard.
        speculates = TorchSampler._speculation_could_use_rejection_sampling(request, strategy)
        needs_probs = speculates or _wants(request, processed=True)
        groups[strategy_to_key(strategy, needs_probs), needs_probs].append((i, strategy, speculates, request))
    return {_key(*key): _value(members) for key, members in groups.items()}


def _wants(request: LlmRequest, *, processed: bool) -> bool:
    """Whether a request wants log-probs of rows after processing, or before."""
    if not SHAPE.since_1_3_0 or not request.return_log_probs:
        return False
    return (request.py_logprobs_mode is LogprobMode.PROCESSED) is processed


def _key(strategy_key: Any, needs_probs: bool) -> Any:
    if SHAPE.since_1_3_0:
        return RequestGroupKey(strategy_key=strategy_key, needs_probs=needs_probs)
    return RequestGroupKey(strategy=strategy_key, speculation_needs_probs=needs_probs)  # type: ignore[call-arg]


def _value(members: list[tuple[int, Strategy, bool, LlmRequest]]) -> Any:
    indices = torch.tensor([i for i, *_ in members], dtype=torch.int32)
    strategies = [strategy for _, strategy, *_ in members]
    if not SHAPE.since_1_3_0:
        return RequestGroupValue(indices, strategies)  # type: ignore[call-arg, misc]
    return RequestGroupValue(
        indices=indices,
        strategies=strategies,
        speculation_needs_probs_indices=torch.tensor([i for i, _, speculates, _ in members if speculates]).int(),
        need_processed_logprobs=torch.tensor([_wants(request, processed=True) for *_, request in members]),
        need_raw_logprobs=torch.tensor([_wants(request, processed=False) for *_, request in members]),
    )
