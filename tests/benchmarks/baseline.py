"""What engines do without fused kernels: softmax both models' rows, test every draft, draw from every residual.

The order of work is that of vLLM's rejection sampler in plain torch; strict verification at temperature 1 only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def softmax_then_reject(
    draft_tokens: Tensor, draft_logits: Tensor, target_logits: Tensor, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Accepted drafts ``[B]`` and next tokens ``[B]``; arguments as in `spec_cascade.verify.verify`.

    Tokens are drawn by an exponential race, the idiom that keeps the host out of it.
    """
    length = draft_tokens.shape[1]
    target_probs = torch.softmax(target_logits, -1, dtype=torch.float32)
    draft_probs = torch.softmax(draft_logits, -1, dtype=torch.float32)
    drafted = draft_tokens.unsqueeze(-1)
    p = target_probs[:, :length].gather(-1, drafted).squeeze(-1)
    q = draft_probs.gather(-1, drafted).squeeze(-1)
    accepted = (uniforms[:, :length, 0] * q <= p).long().cumprod(-1).sum(-1)

    race = torch.empty_like(target_probs[:, 0]).exponential_().unsqueeze(1)
    residual = (target_probs[:, :length] - draft_probs).clamp_min_(0)
    recovered = residual.div_(race).argmax(-1)
    bonus = (target_probs[:, length:] / race).argmax(-1)
    return accepted, torch.cat((recovered, bonus), -1).gather(-1, accepted.unsqueeze(-1)).squeeze(-1)
