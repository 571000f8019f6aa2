"""Attention over many sequences in a slot KV cache, registered with transformers: its modelling code stays untouched.

All tokens of a forward are packed into one row ``[1, T]``, so that the linear layers take them in one go. Only this
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
    from torch import Tensor

    from spec_cascade.engines.pytorch.cache import SlotCache

ATTENTION = "spec_cascade"


@dataclass(slots=True)
class Group:
    """Sequences in neighbouring slots that feed L tokens each: one attention call.

    Attributes:
        first_slot: Slot of the first of them.
        first_token: Where its tokens begin in the packed row; those of the others follow.
        positions: Position of each token in its sequence, on the device, ``[n, L]``.
        end: Keys of a slot that the call reads; no token is at a position beyond.
        even: Whether every token sees all of them; False is always right.
    """

    first_slot: int
    first_token: int
    positions: Tensor
    end: int
    even: bool
    _masks: dict[tuple[int | None, int], Tensor] = field(default_factory=dict)

    @property
    def slots(self) -> slice:
        """Their slots."""
        return slice(self.first_slot, self.first_slot + len(self.positions))

    @property
    def tokens(self) -> slice:
        """Their tokens in the packed row."""
        return slice(self.first_token, self.first_token + self.positions.numel())

    def mask(self, window: int | None, repeat: int, dtype: torch.dtype) -> Tensor | None:
        """0 where a query sees a key and -inf elsewhere, ``[n, 1, repeat * L, end]``; None where all see all."""
        if self.even and (window is None or self.end <= window):
            return None
        if (window, repeat) not in self._masks:
            distance = self.positions[:, None, :, None] - torch.arange(self.end, device=self.positions.device)
            hidden = distance < 0
            if window is not None:
                hidden |= distance >= window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
            self._masks[window, repeat] = mask.repeat(1, 1, repeat, 1)
        return self._masks[window, repeat]


@dataclass(frozen=True, slots=True)
class SlotBatch:
    """Where the T tokens of one forward go, and what they see; travels through the model as a keyword argument.

    Attributes:
        cache: The keys and values.
        slots: Slot of each token, on the device, ``[T]``.
        columns: Where in its slot a token's key and value are written, ``[T]``.
        groups: Together all tokens.
    """

    cache: SlotCache
    slots: Tensor
    columns: Tensor
    groups: list[Group]


def refuse_inexact(
    module: torch.nn.Module, attention_mask: Tensor | None, softcap: float | None, s_aux: Tensor | None
) -> None:
    """Refuse what this attention cannot do exactly: the last line, behind the checks of `families`.

    Raises:
        EngineError: The layer asks for it.
    """
    if softcap is not None:
        raise EngineError(f"{type(module).__name__} caps its attention scores, which the pytorch engine cannot do")
    if attention_mask is not None or s_aux is not None:
        raise EngineError(f"{type(module).__name__} masks its scores or has sinks, which the pytorch engine cannot do")


def slot_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    slot_batch: SlotBatch | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend; signature of transformers' attention functions.

    Args:
        module: The attention layer; its ``layer_idx`` selects the cache's layer.
        query: ``[1, H, T, D]``.
        key: ``[1, H_kv, T, D]``, rotated.
        value: ``[1, H_kv, T, D]``.
        attention_mask: Must be None, and is: transformers makes none for an implementation that it does not know.
        scaling: Factor of the scores; None is ``D ** -0.5``.
        sliding_window: Newest keys that a query sees, itself included; None is all.
        softcap: Must be None: this attention cannot do it exactly.
        s_aux: Must be None: nor can it do attention sinks.
        slot_batch: The forward's tokens.

    Returns:
        Output ``[1, T, H, D]``, and None for the weights.
    """
    refuse_inexact(module, attention_mask, softcap, s_aux)
    if slot_batch is None:
        raise EngineError("the pytorch engine's attention runs only inside its own forward")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    keys, values = slot_batch.cache.append(layer, slot_batch, key[0], value[0])
    heads, kv_heads = query.shape[1], key.shape[1]
    repeat = heads // kv_heads
    output = torch.empty_like(query[0].transpose(0, 1))
    for group in slot_batch.groups:
        n, length = group.positions.shape
        # The query heads that share a key head become rows of one call, so that no key is repeated in memory.
        rows = query[0, :, group.tokens].view(kv_heads, repeat, n, length, -1)
        rows = rows.permute(2, 0, 1, 3, 4).reshape(n, kv_heads, repeat * length, -1)
        attended = scaled_dot_product_attention(
            rows,
            keys[group.slots, :, : group.end],
            values[group.slots, :, : group.end],
            attn_mask=group.mask(sliding_window, repeat, query.dtype),
            scale=scaling,
        )
        attended = attended.view(n, kv_heads, repeat, length, -1).permute(0, 3, 1, 2, 4)
        output[group.tokens] = attended.reshape(n * length, heads, -1)
    return output.unsqueeze(0), None


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, slot_attention)
