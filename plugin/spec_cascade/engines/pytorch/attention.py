"""Attention over ragged batches in a slot KV cache, registered with transformers: its modelling code stays untouched.

All tokens of a forward are packed into one row ``[1, T]``, so that the linear layers see no padding. Only this
function knows which sequence a token belongs to: it writes the new keys and values into the sequence's slot and lets
each token attend to its own slot up to itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.engines.pytorch.cache import SlotCache

ATTENTION = "spec_cascade"


@dataclass(frozen=True, slots=True)
class Segment:
    """``length`` new tokens of the sequence in ``slot``, which held ``start`` tokens before."""

    slot: int
    start: int
    length: int


@dataclass(slots=True)
class _Group:
    """Segments of one length in neighbouring slots: one attention call."""

    first_slot: int
    first_token: int
    length: int
    starts: list[int] = field(default_factory=list)
    masks: dict[tuple[int | None, int], Tensor | None] = field(default_factory=dict)

    @property
    def slots(self) -> slice:
        return slice(self.first_slot, self.first_slot + len(self.starts))

    @property
    def tokens(self) -> slice:
        return slice(self.first_token, self.first_token + len(self.starts) * self.length)

    @property
    def end(self) -> int:
        """Longest of the sequences after this forward."""
        return max(self.starts) + self.length

    def mask(self, window: int | None, repeat: int, device: torch.device) -> Tensor | None:
        """Which keys each query sees, ``[n, 1, repeat * length, end]``; None where all see all."""
        if (window, repeat) not in self.masks:
            self.masks[window, repeat] = self._mask(window, repeat, device)
        return self.masks[window, repeat]

    def _mask(self, window: int | None, repeat: int, device: torch.device) -> Tensor | None:
        if self.length == 1 and min(self.starts) == max(self.starts) and (window is None or self.end <= window):
            return None
        query = torch.tensor(self.starts, device=device)[:, None] + torch.arange(self.length, device=device)
        distance = query[:, None, :, None] - torch.arange(self.end, device=device)
        visible = distance >= 0
        if window is not None:
            visible &= distance < window
        return visible.repeat(1, 1, repeat, 1)


class RaggedBatch:
    """One forward's segments and the cache they write to; travels through the model as a keyword argument."""

    def __init__(self, segments: Sequence[Segment], cache: SlotCache) -> None:
        self.cache = cache
        self.groups = _grouped(segments)
        slots = [s.slot for s in segments for _ in range(s.length)]
        positions = [s.start + i for s in segments for i in range(s.length)]
        self.slots = torch.tensor(slots, device=cache.device)
        self.positions = torch.tensor(positions, device=cache.device)


def _grouped(segments: Sequence[Segment]) -> list[_Group]:
    groups: list[_Group] = []
    token = 0
    for segment in segments:
        last = groups[-1] if groups else None
        if last is None or last.length != segment.length or last.slots.stop != segment.slot:
            last = _Group(segment.slot, token, segment.length)
            groups.append(last)
        last.starts.append(segment.start)
        token += segment.length
    return groups


def ragged_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001 - transformers makes none for an implementation it does not know
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    ragged_batch: RaggedBatch | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; signature of transformers' attention functions.

    Args:
        module: The attention layer; its ``layer_idx`` selects the cache's layer.
        query: ``[1, H, T, D]``.
        key: ``[1, H_kv, T, D]``, rotated.
        value: ``[1, H_kv, T, D]``.
        attention_mask: Unused.
        scaling: Factor of the scores; None is ``D ** -0.5``.
        sliding_window: Newest keys that a query sees, itself included; None is all.
        softcap: Must be None: this attention cannot do it exactly.
        ragged_batch: The forward's segments.

    Returns:
        Output ``[1, T, H, D]``, and None for the weights.
    """
    if softcap is not None:
        raise EngineError(f"{type(module).__name__} caps its attention scores, which the pytorch engine cannot do")
    if ragged_batch is None:
        raise EngineError("the pytorch engine's attention runs only inside its own forward")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = ragged_batch.cache.append(layer, ragged_batch, key[0], value[0])
    heads, kv_heads = query.shape[1], key.shape[1]
    repeat = heads // kv_heads
    output = torch.empty_like(query[0].transpose(0, 1))
    for group in ragged_batch.groups:
        n, length = len(group.starts), group.length
        # The query heads that share a key head become rows of one call, so that no key is repeated in memory.
        rows = query[0, :, group.tokens].view(kv_heads, repeat, n, length, -1)
        rows = rows.permute(2, 0, 1, 3, 4).reshape(n, kv_heads, repeat * length, -1)
        attended = scaled_dot_product_attention(
            rows,
            keys[group.slots, :, : group.end],
            values[group.slots, :, : group.end],
            attn_mask=group.mask(sliding_window, repeat, query.device),
            scale=scaling,
        )
        attended = attended.view(n, kv_heads, repeat, length, -1).permute(0, 3, 1, 2, 4)
        output[group.tokens] = attended.reshape(n * length, heads, -1)
    return output.unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, ragged_attention)
