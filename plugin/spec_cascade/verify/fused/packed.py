"""Everything the host wants to know of a round, in one small tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.verify.scored import LogitsError
from spec_cascade.verify.transfer import to_host
from spec_cascade.verify.verdict import Ran, Verdict

if TYPE_CHECKING:
    from torch import Tensor

_HOLDS = ("NaN", "+inf", "nothing but -inf")


@dataclass(frozen=True, slots=True)
class Packed:
    """A verdict on the device, int32: what the kernels wrote and the drafted tokens, neighbours in memory.

    Attributes:
        memory: Both, ``[B * (K + 3) + B * K]``.
        length: Drafted tokens, K.
    """

    memory: Tensor
    length: int

    @classmethod
    def empty(cls, batch: int, length: int, device: torch.device) -> Packed:
        """Room for B sequences with K drafts each; its contents mean nothing yet."""
        return cls(torch.empty(batch * (2 * length + 3), dtype=torch.int32, device=device), length)

    @property
    def data(self) -> Tensor:
        """Accepted, next token, error (0 for none), then 0 or 1 per deferred position, ``[B, K + 3]``.

        Where a row has an error, the rest of it means nothing.
        """
        return self.memory[: self._batch * (self.length + 3)].view(self._batch, -1)

    @property
    def draft_tokens(self) -> Tensor:
        """The drafted ids, ``[B, K]``."""
        return self.memory[self._batch * (self.length + 3) :].view(self._batch, self.length)

    @property
    def _batch(self) -> int:
        return len(self.memory) // (2 * self.length + 3)

    def verdict(self) -> Verdict:
        """The verdict, on the host: the round's one copy, and the only wait for the device.

        Raises:
            LogitsError: A row of logits makes no distribution; the message names it.
        """
        host = Packed(to_host(self.memory), self.length)
        data, rows = host.data, self.length + 1
        # Errors are 1 + 3 * row + what it holds; rows are the target's K + 1, then the drafter's.
        codes = ((error - 1, b) for b, error in enumerate(data[:, 2].tolist()) if error)
        found = [(code // 3 >= rows, b, code // 3 % rows, code % 3) for code, b in codes]
        if found:
            by_drafter, b, k, what = min(found)
            raise LogitsError("draft" if by_drafter else "target", b, k, _HOLDS[what])
        return Verdict(
            accepted=data[:, 0].long(),
            next_token=data[:, 1].long(),
            deferred=data[:, 3:].bool(),
            draft_tokens=host.draft_tokens.long(),
            ran=Ran("fused"),
        )
