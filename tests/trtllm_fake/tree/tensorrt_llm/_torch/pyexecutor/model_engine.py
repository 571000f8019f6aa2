"""The models: functions that a test has given, behind what an engine does around a forward."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, get_draft_token_length
from tensorrt_llm._torch.pyexecutor.resource_manager import KVCacheManager, ResourceManager, ResourceManagerType
from tests.trtllm_fake.stage import current
from tests.trtllm_fake.stream import GARBAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tensorrt_llm._torch.pyexecutor.scheduler import ScheduledRequests
    from tensorrt_llm.mapping import Mapping
    from tests.trtllm_fake.models import FakeModel


class TrtllmAttention:
    """The attention that the chain loop needs."""


class VanillaAttention:
    """Another one."""


class StaticRows:
    """Rows of logits in memory that is kept: the next forward writes there again."""

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self._memory = torch.full((0, vocab_size), torch.nan)

    @torch.inference_mode()
    def fill(self, rows: Sequence[Tensor], padding: int) -> Tensor:
        """The rows, and ``padding`` rows behind them that belong to nobody; a view."""
        count = sum(map(len, rows)) + padding
        if count > len(self._memory):
            self._memory = torch.full((2 * count, self._vocab_size), torch.nan)
        self._memory.fill_(torch.nan)
        torch.cat(list(rows), out=self._memory[: count - padding])
        return self._memory[:count]


class PyTorchModelEngine:
    """An engine; its model is found by its path, see `tests.trtllm_fake.register`."""

    def __init__(
        self,
        *,
        model_path: str,
        llm_args: Any,
        mapping: Mapping | None = None,
        attn_runtime_features: Any = None,
        dist: Any = None,
        spec_config: Any = None,
        is_draft_model: bool = False,
        drafting_loop_wrapper: Callable[[Any], Any] | None = None,
        pytorch_backend_config: Any = None,
    ) -> None:
        models = current().models
        if str(model_path) not in models:
            raise FileNotFoundError(f"no model is registered for {model_path!r}; there are {sorted(models)}")
        given: FakeModel = models[str(model_path)]
        self.llm_args = llm_args
        self.mapping = mapping
        self.spec_config = spec_config
        self.is_draft_model = is_draft_model
        # As modules lie in each other: engine.model.model.d2t.
        inner = SimpleNamespace(given=given)
        if given.d2t is not None:
            inner.d2t = SimpleNamespace(data=given.d2t)
        plain = SimpleNamespace(
            model=inner, vocab_size_padded=given.vocab_size, model_config=SimpleNamespace(is_generation=True)
        )
        self.model = plain if drafting_loop_wrapper is None else drafting_loop_wrapper(plain)
        self.model_is_wrapped = drafting_loop_wrapper is not None
        self.attn_backend = TrtllmAttention if llm_args.attn_backend == "TRTLLM" else VanillaAttention
        self.max_seq_len = min(given.max_seq_len, llm_args.max_seq_len or given.max_seq_len)
        _, self.max_num_tokens, _, self.batch_size = llm_args.get_runtime_sizes()
        self.enable_spec_decode = spec_config is not None
        self.kv_cache_manager_key = ResourceManagerType.KV_CACHE_MANAGER
        self.attn_metadata: Any = None
        self._given = given
        self._rows = StaticRows(given.vocab_size)

    def load_weights_from_target_model(self, target_model: Any) -> None:
        """Share what can be shared."""

    @torch.inference_mode()
    def forward(
        self,
        scheduled_requests: ScheduledRequests,
        resource_manager: ResourceManager,
        new_tensors_device: Any = None,
        gather_context_logits: bool = False,
        cache_indirection_buffer: Tensor | None = None,
        num_accepted_tokens_device: Tensor | None = None,
        req_id_to_old_request: dict[int, LlmRequest] | None = None,
    ) -> dict[str, Tensor]:
        """The rows of a batch, prompts first; a drafting loop's tokens and rows where one is wrapped around."""
        cache: KVCacheManager = resource_manager.get_resource_manager(self.kv_cache_manager_key)
        texts = [self._prompt(request, cache) for request in scheduled_requests.context_requests]
        texts += [
            self._continuation(request, cache, new_tensors_device) for request in scheduled_requests.generation_requests
        ]
        for i, request in enumerate(scheduled_requests.all_requests()):
            request.py_batch_idx = i
        idle = self._num_padding(scheduled_requests)
        if self.model_is_wrapped:
            return self._chain([text for text, _ in texts], scheduled_requests.all_requests(), cache, idle)
        rows = [self.rows(text)[-count:] for text, count in texts]
        drafted = self.llm_args.speculative_config.max_total_draft_tokens if self._speculates else 0
        return {"logits": self._rows.fill(rows, padding=idle * (1 + drafted))}

    def _chain(
        self, texts: list[list[int]], requests: list[LlmRequest], cache: KVCacheManager, idle: int
    ) -> dict[str, Tensor]:
        """All drafted tokens of a round, ``[K, B]``, and their rows, ``[K, B, V]``; what fills the batch is last."""

        def feed(place: int, position: int, token: int) -> None:
            cache.write(requests[place].py_request_id, position, [token])

        tokens, rows = self.model.forward(texts, self.rows, feed)
        blank = torch.full((idle, self._given.vocab_size), torch.nan)
        kept = self._rows.fill([part for step in rows for part in (step, blank)], padding=0)
        return {
            "new_draft_tokens": torch.nn.functional.pad(tokens, (0, idle), value=GARBAGE),
            "draft_logits": kept.view(len(rows), len(requests) + idle, -1),
        }

    def rows(self, text: Sequence[int]) -> Tensor:
        """What the model says of a text, ``[n, V]``."""
        rows = self._given.rows(text)
        assert rows.shape == (len(text), self._given.vocab_size), f"rows of {tuple(rows.shape)} for {len(text)} tokens"
        assert rows.dtype == torch.float32
        return rows

    @property
    def _speculates(self) -> bool:
        return self.spec_config is not None and self.enable_spec_decode and not self.is_draft_model

    def _prompt(self, request: LlmRequest, cache: KVCacheManager) -> tuple[list[int], int]:
        """The text that a prompt's next chunk ends, and how many of its rows are wanted."""
        begin, size = request.context_current_position, request.context_chunk_size
        text = cache.write(request.py_request_id, begin, request.get_tokens(0)[begin : begin + size])
        if self._sees_text and not request.is_last_context_chunk:
            # The drafter's first turn: as if it had been fed the target's first token too.
            text = request.get_tokens(0) if begin + size + 1 == request.prompt_len else text
        return text, size if request.py_return_context_logits else 1

    def _continuation(
        self, request: LlmRequest, cache: KVCacheManager, new_tensors_device: Any
    ) -> tuple[list[int], int]:
        """The text behind which a request goes on, and how many of its rows are wanted."""
        tokens = request.get_tokens(0)
        if new_tensors_device is not None:
            # Not given to the request yet: it is taken from where the sampler has put it.
            tokens.append(int(new_tensors_device.new_tokens[0, request.py_seq_slot, 0]))
        fed = [tokens[-1], *(int(token) for token in request.py_draft_tokens)]
        text = cache.write(request.py_request_id, len(tokens) - 1, fed)
        return (tokens if self._sees_text else text), 1 + get_draft_token_length(request)

    @property
    def _sees_text(self) -> bool:
        return self.is_draft_model and current().drafter_sees == "text"

    def _num_padding(self, scheduled: ScheduledRequests) -> int:
        """Requests that a CUDA graph needs to have a whole batch."""
        config = self.llm_args.cuda_graph_config
        if config is None or not config.enable_padding or not scheduled.can_run_cuda_graph:
            return 0
        sizes = [size for size in config.batch_sizes if size >= scheduled.batch_size]
        return min(sizes) - scheduled.batch_size if sizes else 0
