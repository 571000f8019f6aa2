"""Which drafted tokens stand: a part of `TorchSampler`, and what a cascade replaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor._sampler_requests import _request_strategy, add_token
from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, get_draft_token_length
from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManager, ResourceManagerType
from tensorrt_llm._torch.pyexecutor.sampling_utils import GREEDY, Strategy
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPE = current().shape
ANY_VOCABULARY = 2**31


class Verification:
    """See the module."""

    max_seq_len: int
    _force_num_accepted_tokens: int
    finish_if_reason: Callable[..., bool]
    _handle_stop_criteria: Callable[..., bool]
    get_generator: Callable[[torch.device], torch.Generator]

    @staticmethod
    def _speculation_could_use_rejection_sampling(request: LlmRequest, strategy: Strategy | None = None) -> bool:
        if strategy is None:
            strategy = _request_strategy(request, vocab_size=ANY_VOCABULARY)
        return get_draft_token_length(request) > 0 and strategy != GREEDY

    def get_spec_tree_manager(self, resource_manager: ResourceManager | None) -> Any:
        """Who knows of trees of drafts; nobody here."""
        if resource_manager is None:
            return None
        manager = resource_manager.get_resource_manager(ResourceManagerType.SPEC_RESOURCE_MANAGER)
        return getattr(manager, "spec_tree_manager", None)

    def process_draft_tokens(
        self,
        request: LlmRequest,
        new_tokens_tensor: Tensor,
        new_tokens_list: list[list[list[int]]],
        finish_reasons: list[list[list[int]]],
        resource_manager: ResourceManager | None = None,
    ) -> int:
        """Commit what stands of a request's round; returns how many of its drafted tokens that were."""
        if self._speculation_could_use_rejection_sampling(request) and request.py_draft_logits is not None:
            return self._process_draft_tokens_rejection_sampling(
                request, new_tokens_list=new_tokens_list, new_tokens_tensor=new_tokens_tensor
            )
        tree = self.get_spec_tree_manager(resource_manager)
        if tree is not None:
            return self._process_draft_tokens_tree(
                request,
                new_tokens_tensor=new_tokens_tensor,
                new_tokens_list=new_tokens_list,
                finish_reasons=finish_reasons,
                spec_tree_manager=tree,
            )
        return self._process_draft_tokens_greedy(request, new_tokens=new_tokens_list, finish_reasons=finish_reasons)

    def _process_draft_tokens_greedy(
        self, request: LlmRequest, new_tokens: list[list[list[int]]], finish_reasons: list[list[list[int]]]
    ) -> int:
        """Drafts stand as long as the target has sampled the same."""
        token = add_token(request, new_tokens, beam_idx=0)
        if self.finish_if_reason(request, finish_reasons, step=0, beam_idx=0):
            return 0
        accepted = 0
        forced = self._force_num_accepted_tokens
        for draft in request.py_draft_tokens[: forced or None]:
            if not forced and draft != token:
                break
            accepted += 1
            token = add_token(request, new_tokens, beam_idx=0, step=accepted)
            if self.finish_if_reason(request, finish_reasons, step=accepted, beam_idx=0):
                break
        return accepted

    def _process_draft_tokens_tree(
        self,
        request: LlmRequest,
        new_tokens_tensor: Tensor,
        new_tokens_list: list[list[list[int]]],
        finish_reasons: list[list[list[int]]],
        spec_tree_manager: Any,
    ) -> int:
        raise NotImplementedError("the fake drafts no trees")

    @torch.inference_mode()
    def _process_draft_tokens_rejection_sampling(
        self, request: LlmRequest, new_tokens_list: list[list[list[int]]], new_tokens_tensor: Tensor
    ) -> int:
        """Drafts stand with the probability p / q; the table of ends speaks of other tokens then."""
        from tensorrt_llm._torch.pyexecutor import sampler

        assert request.py_draft_logits is not None
        generator = self.get_generator(request.py_draft_logits.device)
        strategy = (
            GREEDY if request.py_draft_use_greedy_sampling else _request_strategy(request, vocab_size=ANY_VOCABULARY)
        )
        draft_probs = sampler.sample(strategy, request.py_draft_logits, generator=generator)[1]
        target_probs = request.py_target_probs
        assert target_probs is not None
        if request.d2t is not None:
            draft_probs = _widened(draft_probs, request.d2t, target_probs.shape[-1])
        rejected = sampler.get_rejected_indices(draft_probs, target_probs, generator, request.py_draft_tokens)
        accepted = int(rejected[0].item()) if rejected.numel() else get_draft_token_length(request)
        for i in range(accepted):
            token = request.py_draft_tokens[i]
            new_tokens_tensor[i, request.seq_slot, 0] = token
            request.add_new_token(token, 0)
            if self._handle_stop_criteria(request, token, beam_idx=0, max_seq_len=self.max_seq_len):
                return i + 1
        if rejected.numel():
            token = sampler.sample_rejected(draft_probs, target_probs, generator, accepted)
            new_tokens_tensor[accepted, request.seq_slot, 0] = token
            request.add_new_token(token, 0)
        else:
            token = add_token(request, new_tokens_list, beam_idx=0, step=accepted)
        self._handle_stop_criteria(request, token, beam_idx=0, max_seq_len=self.max_seq_len)
        return accepted


def _widened(draft_probs: Tensor, d2t: Tensor, width: int) -> Tensor:
    """The drafter's columns in the places that they have in the target's."""
    wide = torch.zeros(*draft_probs.shape[:-1], width)
    wide[..., (torch.arange(draft_probs.shape[-1]) + d2t) % width] = draft_probs
    return wide
