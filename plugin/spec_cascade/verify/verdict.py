"""What a verifier says of a round, and which verifier said it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from spec_cascade.verify.transfer import to_host

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ran:
    """Which verifier judged a round; for statistics.

    Attributes:
        backend: ``fused`` or ``reference``.
        reason: Why the kernels did not run; empty where they did, or where nobody asked for them.
    """

    backend: Literal["reference", "fused"]
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}" if self.reason else self.backend


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands of B drafted blocks.

    Attributes:
        accepted: Drafted tokens that stand, ``[B]``.
        next_token: The token that follows, ``[B]``: residual if ``accepted`` is below the draft length, else bonus.
        deferred: Positions, up to and including the first rejected one, at which the rule deferred, boolean ``[B, K]``.
        draft_tokens: The drafted ids that were judged, ``[B, K]``: they come to the host with the verdict.
        ran: Which verifier judged.
    """

    accepted: Tensor
    next_token: Tensor
    deferred: Tensor
    draft_tokens: Tensor
    ran: Ran

    def on_host(self, ran: Ran) -> Verdict:
        """The same, fetched in one copy, and said by ``ran``."""
        parts = (self.accepted[:, None], self.next_token[:, None], self.deferred.long(), self.draft_tokens)
        packed, drafts = to_host(torch.cat(parts, 1)), 2 + self.draft_tokens.shape[1]
        return Verdict(packed[:, 0], packed[:, 1], packed[:, 2:drafts].bool(), packed[:, drafts:], ran)
