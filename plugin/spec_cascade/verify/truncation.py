"""Top-k, top-p and min-p, without sorting whole rows where a few candidates settle them.

Order a row by falling logit, ties by rising token id: each of the three keeps a prefix of it, top-p among what top-k
kept, min-p among what both kept (the order of transformers). The shortest prefix stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.rules.rows import row_sum

if TYPE_CHECKING:
    from torch import Tensor

_CANDIDATES = 1024


def truncated(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Logits ``[n, V]``, already divided by their temperature, with -inf at what is dropped.

    Args:
        logits: ``[n, V]``.
        top_k: ``[n]``; 0 keeps all.
        top_p: ``[n]``; 1 keeps all.
        min_p: ``[n]``; 0 keeps all.
    """
    vocab = logits.shape[-1]
    top_k = torch.where((top_k > 0) & (top_k < vocab), top_k, vocab)[:, None]
    top_p, min_p = top_p.double()[:, None], min_p.double()[:, None]
    dropped = logits < _min_p_cut(logits, min_p)
    if bool(((top_k < vocab) | (top_p < 1)).any()):
        dropped |= _outside_prefix(logits, top_k, top_p)
    return logits.masked_fill(dropped, float("-inf"))


def _min_p_cut(logits: Tensor, min_p: Tensor) -> Tensor:
    """The least logit that min-p keeps, ``[n, 1]``: its probability is min_p times the largest."""
    return logits.amax(-1, keepdim=True) + min_p.log().to(logits.dtype)


def _outside_prefix(logits: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Whether each token lies outside the prefix that top-k and then top-p keep."""
    vocab = logits.shape[-1]
    by_mass = bool(((top_p < 1) & (top_k == vocab)).any())
    # A row that keeps more than a few does not make the others rank as many.
    few = torch.where((top_k < vocab) & (top_k <= _CANDIDATES), top_k, 1)
    candidates = max(int(few.max()), min(_CANDIDATES, vocab) if by_mass else 1)
    last, ties = _prefix_end(logits, top_k, top_p, candidates)
    # Rows that neither limit concerns keep everything, whatever number of candidates was looked at.
    last = last.masked_fill((top_k == vocab) & (top_p == 1), float("-inf"))
    outside, tied = logits < last, (logits == last) & (last > float("-inf"))
    if bool((tied.sum(-1, keepdim=True) > ties).any()):
        outside |= tied & (tied.cumsum(-1) > ties)
    return outside


def _prefix_end(logits: Tensor, top_k: Tensor, top_p: Tensor, candidates: int) -> tuple[Tensor, Tensor]:
    """The last logit of the prefix, ``[n, 1]``, and how many of the tokens that tie with it it holds, ``[n, 1]``."""
    vocab = logits.shape[-1]
    whole = candidates == vocab
    ranked = logits.sort(dim=-1, descending=True).values if whole else logits.topk(candidates).values
    kept = _prefix_length(logits, ranked, top_k, top_p)
    last = ranked.gather(-1, kept - 1)
    ties = kept - (ranked > last).sum(-1, keepdim=True)
    beyond = (top_k > candidates) & ((top_k < vocab) | (top_p < 1))
    unsettled = (beyond & ((kept == candidates) | (top_k < vocab))).squeeze(-1)
    if not whole and bool(unsettled.any()):
        last[unsettled], ties[unsettled] = _prefix_end(logits[unsettled], top_k[unsettled], top_p[unsettled], vocab)
    return last, ties


def _prefix_length(logits: Tensor, ranked: Tensor, top_k: Tensor, top_p: Tensor) -> Tensor:
    """Tokens ``[n, 1]`` of the prefix, at most as many as ``ranked`` ``[n, candidates]`` holds."""
    vocab = logits.shape[-1]
    peak = ranked[:, :1].double()
    mass = (ranked.double() - peak).exp().cumsum(-1)
    # What top-k kept is top-p's whole; without top-k it is the row.
    total = mass.gather(-1, top_k.clamp_max(ranked.shape[-1]) - 1)
    if bool((top_k == vocab).any()) and ranked.shape[-1] < vocab:
        total = torch.where(top_k == vocab, row_sum((logits.double() - peak).exp()), total)
    before = torch.cat((torch.zeros_like(total), mass[:, :-1]), -1)
    rank = torch.arange(ranked.shape[-1], device=ranked.device)
    kept = (rank < top_k) & ((before < top_p * total) | (top_p == 1))
    return kept.sum(-1, keepdim=True).clamp_min(1)
