"""Who holds what for a request: the KV cache above all."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState, get_draft_token_length

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests

NOBODY = 0
"""The token that stands where nothing was written."""


class ResourceManagerType(Enum):
    """Kinds of managers."""

    KV_CACHE_MANAGER = "KV_CACHE_MANAGER"
    DRAFT_KV_CACHE_MANAGER = "DRAFT_KV_CACHE_MANAGER"
    PEFT_CACHE_MANAGER = "PEFT_CACHE_MANAGER"
    SEQ_SLOT_MANAGER = "SEQ_SLOT_MANAGER"
    SPEC_RESOURCE_MANAGER = "SPEC_RESOURCE_MANAGER"


class BaseResourceManager:
    """Holds something for requests."""

    def prepare_resources(self, scheduled_batch: ScheduledRequests) -> None:
        """Before a round."""

    def update_resources(self, scheduled_batch: ScheduledRequests) -> None:
        """After a round."""

    def free_resources(self, request: LlmRequest) -> None:
        """After a request's last round."""


class KVCacheManager(BaseResourceManager):
    """Counts the places that each request has in a KV cache, and knows which token's keys stand in each.

    Args:
        is_draft: Whether it is the drafter's cache; it is told of the target's requests all the same.
    """

    def __init__(self, is_draft: bool = False) -> None:
        self.is_draft = is_draft
        self._reserved: dict[int, int] = {}
        self._tokens: dict[int, list[int]] = {}

    def prepare_resources(self, scheduled_batch: ScheduledRequests) -> None:
        """Reserve the places that a round may write: all of a prompt's at once, of a draft's as it stands now."""
        for request in scheduled_batch.context_requests:
            if request.is_first_context_chunk:
                self._reserved[request.py_request_id] = request.prompt_len + get_draft_token_length(request)
                self._tokens[request.py_request_id] = []
        for request in scheduled_batch.generation_requests:
            self._reserved[request.py_request_id] += 1 + get_draft_token_length(request)

    def update_resources(
        self,
        scheduled_batch: ScheduledRequests,
        attn_metadata: Any = None,
        kv_cache_dtype_byte_size: float | None = None,
    ) -> None:
        """Give back what a round wrote in vain."""
        for request in scheduled_batch.generation_requests:
            is_over = request.state in (LlmRequestState.GENERATION_COMPLETE, LlmRequestState.CONTEXT_INIT)
            if not is_over and request.py_rewind_len > 0:
                self.rewind_kv_cache(request, request.py_rewind_len)

    def rewind_kv_cache(self, request: LlmRequest, rewind_len: int) -> None:
        """Give back a request's last places."""
        self._reserved[request.py_request_id] -= rewind_len

    def free_resources(self, request: LlmRequest, pin_on_release: bool = False) -> None:
        """Forget a request."""
        self._reserved.pop(request.py_request_id, None)
        self._tokens.pop(request.py_request_id, None)

    # What a model's forward does with it.

    def write(self, request_id: int, position: int, tokens: Sequence[int]) -> list[int]:
        """Write tokens from a position on; what it then reads, up to the last of them."""
        held = self._tokens.setdefault(request_id, [])
        held.extend([NOBODY] * (position + len(tokens) - len(held)))
        held[position : position + len(tokens)] = tokens
        return held[: position + len(tokens)]

    def check(self, requests: Sequence[LlmRequest]) -> None:
        """Whether the cache is that of the committed tokens, of which the newest is not in it yet.

        Raises:
            AssertionError: It is not; the request is named.
        """
        for request in requests:
            if request.state is not LlmRequestState.GENERATION_IN_PROGRESS:
                continue
            name, committed = f"request {request.py_request_id}", request.get_tokens(0)[:-1]
            reserved = self._reserved[request.py_request_id]
            assert reserved == len(committed), (
                f"{name}: {reserved} places in the KV cache, {len(committed)} tokens committed before the newest"
            )
            held = self._tokens[request.py_request_id][: len(committed)]
            assert held == committed, f"{name}: the KV cache is of {held}, committed were {committed}"


class ResourceManager:
    """All managers, in the order in which they are asked."""

    def __init__(self, resource_managers: dict[ResourceManagerType, Any]) -> None:
        self.resource_managers = resource_managers

    def get_resource_manager(self, name: ResourceManagerType) -> Any:
        """One of them, or None."""
        return self.resource_managers.get(name)

    def prepare_resources(self, scheduled_batch: ScheduledRequests) -> None:
        """Before a round."""
        for manager in self.resource_managers.values():
            manager.prepare_resources(scheduled_batch)

    def update_resources(
        self,
        scheduled_batch: ScheduledRequests,
        attn_metadata: Any = None,
        kv_cache_dtype_byte_size: float | None = None,
    ) -> None:
        """After a round."""
        for manager in self.resource_managers.values():
            if isinstance(manager, KVCacheManager):
                manager.update_resources(scheduled_batch, attn_metadata, kv_cache_dtype_byte_size)
            else:
                manager.update_resources(scheduled_batch)

    def free_resources(self, request: LlmRequest) -> None:
        """After a request's last round."""
        for manager in reversed(list(self.resource_managers.values())):
            manager.free_resources(request)
