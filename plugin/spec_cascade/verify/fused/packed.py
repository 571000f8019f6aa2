"""What the kernels write: everything the host wants to know of a round, in one small tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.verify.reference import Verdict
from spec_cascade.verify.scored import LogitsError

if TYPE_CHECKING:
    from torch import Tensor

_HOLDS = ("NaN", "+inf", "nothing but -inf")


@dataclass(frozen=True, slots=True)
class Packed:
    """A verdict on the device.

    Attributes:
        data: int32 ``[B, K + 3]``: accepted, next token, error (0 for none), then 0 or 1 per deferred position. Where
            a row has an error, the rest of it means nothing.
    """

    data: Tensor

    def verdict(self) -> Verdict:
        """The verdict, on the host: the round's one copy, and the only wait for the device.

        Raises:
            LogitsError: A row of logits makes no distribution; the message names it.
        """
        data = self.data.cpu()
        rows = data.shape[1] - 2
        # Errors are 1 + 3 * row + what it holds; rows are the target's K + 1, then the drafter's.
        codes = ((error - 1, b) for b, error in enumerate(data[:, 2].tolist()) if error)
        found = [(code // 3 >= rows, b, code // 3 % rows, code % 3) for code, b in codes]
        if found:
            by_drafter, b, k, what = min(found)
            raise LogitsError("draft" if by_drafter else "target", b, k, _HOLDS[what])
        return Verdict(accepted=data[:, 0].long(), next_token=data[:, 1].long(), deferred=data[:, 3:].bool())
