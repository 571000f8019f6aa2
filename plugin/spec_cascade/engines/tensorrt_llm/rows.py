"""Which rows of a forward's logits are whose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade.verify import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class RowSpan:
    """The rows of one request: row j is the target's after j of its drafted tokens, the last one is for the bonus.

    Attributes:
        request: TensorRT-LLM's ``LlmRequest``.
        first: Of its rows, in ``logits`` ``[R, V]``.
        count: One more than it has drafted tokens.
    """

    request: Any
    first: int
    count: int


def rows_of(scheduled: Any, context_rows: Sequence[int]) -> Iterator[RowSpan]:
    """The rows of all requests of a batch: prompts first, then what generates.

    Rows behind them, which CUDA graphs need to have a whole batch, belong to nobody.

    Args:
        scheduled: TensorRT-LLM's ``ScheduledRequests``, without beams.
        context_rows: Where each prompt's rows begin, and behind the last where those of what generates begin: a prompt
            has one row, or one for each of its tokens where its logits are asked for.
    """
    for i, request in enumerate(scheduled.context_requests):
        count = 1 + num_drafted(request)
        yield RowSpan(request, context_rows[i + 1] - count, count)
    first = context_rows[len(scheduled.context_requests)]
    for request in scheduled.generation_requests:
        count = 1 + num_drafted(request)
        yield RowSpan(request, first, count)
        first += count


def add_biases(logits: Tensor, requests: Sequence[Any], counts: Sequence[int]) -> None:
    """Add the biases of the requests that have one to their rows, in place.

    Args:
        logits: Their rows, one request's behind the other's, ``[R, V]``.
        requests: TensorRT-LLM's ``LlmRequest``.
        counts: How many rows each has.
    """
    first = 0
    for request, count in zip(requests, counts, strict=True):
        if request._py_embedding_bias_1d is not None:
            logits[first : first + count] += to_device(request._py_embedding_bias_1d, logits.dtype, logits.device)
        first += count


def num_drafted(request: Any) -> int:
    """Tokens, padding included, that were fed to the target behind a request's newest one."""
    return len(request.py_draft_tokens or ())
