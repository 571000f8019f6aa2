"""What a request's responses carry beside tokens; reported as part of ``llm_request``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tensorrt_llm.executor.result import Logprob


class LogitsStorage:
    """Rows of logits on their way to the host.

    Args:
        seq_length: Rows there is room for.
        should_exclude_last: Leave out what was added last: the loop that fills it runs one step too many.
        use_chunked_generation_logits: Move rows ``chunk_size`` at a time; what is not moved yet is not given out.
        chunk_size: See there.
    """

    def __init__(
        self,
        seq_length: int,
        use_device_memory: bool = True,
        should_exclude_last: bool = False,
        use_chunked_generation_logits: bool = False,
        chunk_size: int = 8,
    ) -> None:
        self.seq_length = seq_length + should_exclude_last
        self.use_chunked_generation_logits = use_chunked_generation_logits
        self.chunk_size = chunk_size
        self._should_exclude_last = should_exclude_last
        self._storage: Tensor | None = None
        self._logits_indices: list[tuple[int, int]] = []
        self._device_fragments: list[Tensor] = []

    def append(self, logits: Tensor) -> None:
        """Add rows ``[n, V]`` or ``[n, beams, V]``."""
        logits = logits.unsqueeze(1) if logits.ndim == 2 else logits
        if self._storage is None:
            self._storage = torch.full((self.seq_length, *logits.shape[1:]), torch.nan)
        if not self.use_chunked_generation_logits:
            self._move(logits)
            return
        self._device_fragments.append(logits.clone())
        if len(self._device_fragments) == self.chunk_size:
            self.finalize_chunked_transfer()

    def finalize_chunked_transfer(self) -> None:
        """Move what waits."""
        if self._device_fragments:
            self._move(torch.cat(self._device_fragments))
            self._device_fragments.clear()

    def get(self, all_logits: bool) -> Tensor | None:
        """The rows ``[n, beams, V]``, a view; None where there is nothing to give out."""
        last = -2 if self._should_exclude_last else -1
        if self._storage is None or len(self._logits_indices) < -last:
            return None
        begin, end = self._logits_indices[last]
        return self._storage[0 if all_logits else begin : end]

    def _move(self, rows: Tensor) -> None:
        begin = self._logits_indices[-1][1] if self._logits_indices else 0
        end = begin + len(rows)
        if end > self.seq_length:
            raise ValueError(f"there is room for {self.seq_length} rows of logits, {end} were to be kept")
        assert self._storage is not None
        self._storage[begin:end].copy_(rows)
        self._logits_indices.append((begin, end))


class PyResult:
    """Logits and log-probs of a request."""

    def __init__(
        self,
        prompt_len: int,
        max_new_tokens: int,
        use_device_memory: bool = True,
        streaming: bool = False,
        return_log_probs: bool = False,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        exclude_last_generation_logits: bool = False,
        use_chunked_generation_logits: bool = True,
        chunk_size: int = 8,
        additional_outputs: list[str] | None = None,
    ) -> None:
        self._streaming = streaming
        self._context_logits = LogitsStorage(prompt_len, use_device_memory) if return_context_logits else None
        self._generation_logits = (
            LogitsStorage(
                max_new_tokens,
                use_device_memory,
                exclude_last_generation_logits,
                use_chunked_generation_logits,
                chunk_size,
            )
            if return_generation_logits
            else None
        )
        self._log_probs: list[list[dict[int, Logprob]]] | None = [[]] if return_log_probs else None

    def append_context_logits(self, context_logits: Tensor) -> None:
        """Keep rows of the prompt."""
        if self._context_logits is not None:
            self._context_logits.append(context_logits)

    def append_generation_logits(self, generation_logits: Tensor) -> None:
        """Keep rows of the output."""
        if self._generation_logits is not None:
            self._generation_logits.append(generation_logits)

    def transfer_remaining_device_logits(self) -> None:
        """Move what waits."""
        if self._generation_logits is not None:
            self._generation_logits.finalize_chunked_transfer()

    def append_log_probs(self, log_probs: list[list[dict[int, Logprob]]], cum_log_probs: Any = None) -> None:
        """Keep the log-probs of further tokens, by beam."""
        if self._log_probs is not None:
            for kept, added in zip(self._log_probs, log_probs, strict=True):
                kept.extend(added)

    @property
    def context_logits(self) -> Tensor | None:
        """Rows of the prompt, ``[n, V]``."""
        rows = None if self._context_logits is None else self._context_logits.get(all_logits=True)
        return None if rows is None else rows[:, 0]

    @property
    def generation_logits(self) -> Tensor | None:
        """Rows of the output, ``[beams, n, V]``."""
        if self._generation_logits is None:
            return None
        rows = self._generation_logits.get(all_logits=not self._streaming)
        return None if rows is None else rows.transpose(0, 1)

    @property
    def log_probs(self) -> list[list[dict[int, Logprob]]] | None:
        """Of each token, by beam."""
        return self._log_probs

    @property
    def cum_log_probs(self) -> list[float] | None:
        """Of all tokens, by beam: the first entry of each token's table counts."""
        if self._log_probs is None:
            return None
        return [sum(next(iter(token.values())).logprob for token in beam) for beam in self._log_probs]


class LlmResult:
    """What C++ says of a sequence, and beside it what Python keeps: by reference, as it stands when it is read."""

    def __init__(self, result: Any, py_result: PyResult, is_final: bool = False) -> None:
        self._result = result
        self._py_result = py_result
        self.is_final = is_final
        self.cached_tokens = 0

    def __getattr__(self, item: str) -> Any:
        if item in ("context_logits", "generation_logits", "log_probs", "cum_log_probs"):
            return getattr(self._py_result, item)
        return getattr(object.__getattribute__(self, "_result"), item)


@dataclass
class LlmResponse:
    """A response, or an error."""

    request_id: int
    error_msg: str | None = None
    result: LlmResult | None = None
    client_id: int | None = None

    def has_error(self) -> bool:
        """Whether it is an error."""
        return self.error_msg is not None
