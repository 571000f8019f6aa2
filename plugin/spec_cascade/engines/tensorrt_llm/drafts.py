"""What the drafter proposed: taken from TensorRT-LLM's chain loop, or drawn here in its step-by-step loop.

The chain loop takes the argmax on the device and leaves tokens and rows on the request. The other loop asks the shared
sampler for each drafted token; there every token is drawn from the request's own numbers, and the row that it was drawn
from is kept, for TensorRT-LLM hands on one row too few.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

import torch

from spec_cascade.engines.tensorrt_llm.decision import NOTHING, Draft
from spec_cascade.engines.tensorrt_llm.rows import num_drafted, rows_of
from spec_cascade.verify import BatchSampling, HostCopy, Purpose, sample, to_device, uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.engines.tensorrt_llm.followed import Followed


@dataclass(frozen=True, slots=True)
class Drawn:
    """One step's drafted tokens of n requests.

    Attributes:
        request_ids: Whose.
        token_ids: ``[n]``, where they were drawn.
        rows: What they were drawn from, ``[n, Vd]``.
        copy: Their way to the host, which nobody has to wait for until the step is over.
    """

    request_ids: tuple[int, ...]
    token_ids: Tensor
    rows: Tensor
    copy: HostCopy


class DraftBook:
    """Drafted tokens and rows of the round that is being drafted, by request."""

    def __init__(self, vocab_size: int | None) -> None:
        self._vocab_size = vocab_size
        self._rows: dict[int, list[Tensor]] = {}
        self._tokens: dict[int, list[int]] = {}
        # Of requests that live; TensorRT-LLM gives a drafter's request the id of the target's.
        self._followed: WeakValueDictionary[int, Followed] = WeakValueDictionary()

    def follow(self, followed: Followed) -> None:
        """Know the drafter's requests of this id as this one's."""
        self._followed[followed.request_id] = followed

    def draw(self, scheduled: Any, logits: Tensor, context_rows: Sequence[int]) -> Drawn | None:
        """The next drafted token of each request in a batch of the drafter's; those of strangers are left out.

        Args:
            scheduled: TensorRT-LLM's ``ScheduledRequests``, all of them the drafter's.
            logits: The drafter's rows ``[R, V]``; those that make no distribution are changed.
            context_rows: See `rows.rows_of`.
        """
        # A request whose prompt the drafter only reads has no token yet, and so is followed by nobody.
        found = [
            (followed, rows.first)
            for rows in rows_of(scheduled, context_rows)
            if (followed := self._followed.get(rows.request.py_request_id)) is not None
        ]
        if not found:
            return None
        device = logits.device
        places = to_device([first for _, first in found], torch.long, device)
        # A copy: the next forward may write its rows to the same place.
        taken = logits[places]
        drafted = [self._tokens.get(followed.request_id, []) for followed, _ in found]
        for (followed, _), row, before in zip(found, taken, drafted, strict=True):
            if (shaping := followed.sequence.shaping) is not None:
                row.copy_(shaping.apply(row, [*followed.sequence.output_ids, *before]))
        sequences = [followed.sequence for followed, _ in found]
        numbers = uniforms(
            to_device([s.seed for s in sequences], torch.long, device),
            to_device([s.num_emitted + len(d) for s, d in zip(sequences, drafted, strict=True)], torch.long, device),
            Purpose.DRAFT,
        )
        sampling = BatchSampling.of([sequence.request.sampling for sequence in sequences], device)
        tokens, sound = sample(taken, sampling, numbers, vocab_size=self._width(taken))
        # The verifier will find what is unsound in our copy. TensorRT-LLM samples too, and would fail for everybody.
        logits[places] = torch.where(sound.unsqueeze(-1), logits[places], 0)
        return Drawn(tuple(followed.request_id for followed, _ in found), tokens, taken, HostCopy(tokens))

    def fetch(self, drawn: Drawn | None) -> dict[int, int]:
        """Note a step's tokens, now that it is over; returns them by request."""
        if drawn is None:
            return {}
        tokens = dict(zip(drawn.request_ids, drawn.copy.get().tolist(), strict=True))
        for request_id, row in zip(drawn.request_ids, drawn.rows, strict=True):
            self._rows.setdefault(request_id, []).append(row)
            self._tokens.setdefault(request_id, []).append(tokens[request_id])
        return tokens

    def take(self, request: Any, followed: Followed, room: int) -> Draft:
        """What was drafted for a request of the target's, at most ``room`` tokens of it.

        A request that nothing was drafted for carries zeros all the same, and perhaps the rows of an earlier round.
        """
        rows, tokens = self._rows.get(followed.request_id), self._tokens.get(followed.request_id)
        if rows is not None and tokens is not None:
            # Not those that were drawn in vain: an error in drafting leaves padding in their place.
            count = min(_agreeing(tokens, request.py_draft_tokens or ()), room)
            return Draft(tuple(tokens[:count]), torch.stack(rows[:count]), argmax=False) if count > 0 else NOTHING
        return _chain_draft(request, followed, room)

    def forget(self) -> None:
        """Drop what a round has used: the next one must not find it."""
        self._rows.clear()
        self._tokens.clear()

    def _width(self, logits: Tensor) -> int:
        return min(logits.shape[-1], self._vocab_size or logits.shape[-1])


def _chain_draft(request: Any, followed: Followed, room: int) -> Draft:
    """What the chain loop left on a request: the argmax of raw rows, whatever the request bans."""
    logits = request.py_draft_logits
    if logits is None or not request.py_draft_use_greedy_sampling:
        return NOTHING
    count = max(0, min(len(logits), num_drafted(request), room))
    token_ids = tuple(int(token) for token in request.py_draft_tokens[:count])
    shaping, output_ids = followed.sequence.shaping, followed.sequence.output_ids
    if shaping is not None:
        token_ids = token_ids[: shaping.num_allowed(output_ids, token_ids)]
    if not token_ids:
        return NOTHING
    if shaping is not None:
        logits = shaping.apply_block(logits[: len(token_ids)], output_ids, token_ids).to(logits.dtype)
    return Draft(token_ids, logits, argmax=True, index=_index(request, logits))


def _agreeing(tokens: Sequence[int], fed: Sequence[Any]) -> int:
    """How many of the tokens were fed to the target, up to the first that was not."""
    pairs = zip(tokens, fed, strict=False)
    return next((n for n, (token, other) in enumerate(pairs) if token != int(other)), min(len(tokens), len(fed)))


def _index(request: Any, logits: Tensor) -> Tensor | None:
    """The token id of each of the drafter's columns, for a drafter of fewer."""
    offsets = getattr(request, "d2t", None)
    if offsets is None:
        return None
    index: Tensor = torch.arange(logits.shape[-1], device=logits.device) + offsets.to(logits.device)
    return index
