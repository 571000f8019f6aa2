"""The verifier in plain torch: one path for all rules, readable on one screen.

Each drafted token is accepted or rejected by its rule; a sequence keeps its drafts up to the first rejection and gets
one more token: from the residual of the rejected row, or, when the whole block stood, from the target (the bonus).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.rules.rows import peak
from spec_cascade.verify.grouping import rules_of_rows
from spec_cascade.verify.sampling import BatchSampling, draw
from spec_cascade.verify.scored import ScoredBlocks
from spec_cascade.verify.verdict import Ran, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule, Place


def verify(
    draft_tokens: Tensor,
    draft_logits: Tensor | None,
    target_logits: Tensor,
    rules: Sequence[DeferralRule],
    sampling: BatchSampling,
    uniforms: Tensor,
    *,
    draft_lengths: Tensor | None = None,
    places: Sequence[Place] | None = None,
    vocab_size: int | None = None,
    argmax_drafts: Tensor | None = None,
    draft_index: Tensor | None = None,
) -> Verdict:
    """Decide which drafted tokens stand, and draw the token that follows.

    Args:
        draft_tokens: Drafted ids, ``[B, K]``; ragged blocks are padded with any valid id.
        draft_logits: The drafter's raw logits, ``[B, K, V]``; None for one-hot proposals (prompt lookup).
        target_logits: The target's raw logits, ``[B, K+1, V]``; row k judges draft k, row K is for the bonus token.
        rules: Rule of each sequence, B of them.
        sampling: Sampling parameters of each sequence.
        uniforms: Numbers in [0, 1), ``[B, K+1, 2]``: ``[..., 0]`` decides acceptance, ``[..., 1]`` draws the token.
        draft_lengths: Drafted tokens of each sequence, ``[B]``, at most K; None means K for all.
        places: Where each sequence's first drafted row stands in its request; for guards and schedules.
        vocab_size: Tokens that exist; logits beyond are padding and never drawn. None takes the smaller width.
        argmax_drafts: Sequences, boolean ``[B]``, whose drafts are the drafter's argmax whatever their temperature: q
            is one-hot at the drafted token. Gates stay on the raw logits.
        draft_index: For a drafter that knows a part of the vocabulary only: the token id of each column of
            ``draft_logits``, ``[Vd]``; drafted ids must be among them. Keep rules never build the full q row.

    Raises:
        LogitsError: A row holds NaN, +inf or nothing but -inf; the message names it.
        ValueError: The widths do not fit, or a drafted id is not in ``draft_index``.
    """
    batch, length = draft_tokens.shape
    lengths = draft_tokens.new_full((batch,), length) if draft_lengths is None else draft_lengths
    vocab = vocabulary(draft_logits, target_logits, vocab_size, draft_index)
    blocks = ScoredBlocks.of(
        draft_tokens,
        draft_logits,
        target_logits,
        sampling,
        lengths=lengths,
        vocab=vocab,
        argmax_drafts=argmax_drafts,
        draft_index=draft_index,
    )
    distinct, which = rules_of_rows(rules, places, draft_tokens, lengths)

    accept = torch.zeros_like(draft_tokens, dtype=torch.bool)
    deferred = torch.zeros_like(accept)
    for number, rule in enumerate(distinct):
        index = None if len(distinct) == 1 else (which == number).nonzero(as_tuple=True)
        here = index or (slice(None), slice(None, length))
        chance, deferred[here] = rule.judge(blocks.rows(index, rule), draft_tokens[here])
        accept[here] = uniforms[here][..., 0] < chance
    position = torch.arange(length, device=draft_tokens.device)
    accepted = (accept & (position < lengths[:, None])).long().cumprod(-1).sum(-1)

    sequence = torch.arange(batch, device=draft_tokens.device)
    weights = blocks.target_probs[sequence, accepted]
    rejected = accepted < lengths
    for number, rule in enumerate(distinct if length else []):
        first = which.gather(-1, accepted.clamp_max(length - 1)[:, None]).squeeze(-1)
        of = (rejected & (first == number)).nonzero().squeeze(-1)
        if len(of) == 0:
            continue
        index = of, accepted[of]
        residual = rule.residual(blocks.rows(index, rule), draft_tokens[index])
        # A rejection whose residual is empty is a rounding of an acceptance of 1: the target's row stands in.
        weights[of] = torch.where(peak(residual) > 0, residual, weights[of])
    examined = (position <= accepted[:, None]) & (position < lengths[:, None])
    return Verdict(
        accepted=accepted,
        next_token=draw(weights, uniforms[sequence, accepted, 1]),
        deferred=deferred & examined,
        draft_tokens=draft_tokens,
        ran=Ran("reference"),
    )


def vocabulary(
    draft_logits: Tensor | None,
    target_logits: Tensor,
    vocab_size: int | None,
    draft_index: Tensor | None,
) -> int:
    """Tokens that exist.

    Raises:
        ValueError: The models' rows are not wide enough.
    """
    drafter = draft_logits.shape[-1] if draft_logits is not None and draft_index is None else None
    widths = [width for width in (target_logits.shape[-1], drafter) if width is not None]
    vocab = min(widths) if vocab_size is None else vocab_size
    if vocab > min(widths):
        raise ValueError(f"vocab_size {vocab} exceeds the logits' width {min(widths)}; use draft_index for a part")
    if draft_index is not None and draft_logits is not None and len(draft_index) > draft_logits.shape[-1]:
        raise ValueError(f"draft_index has {len(draft_index)} ids for {draft_logits.shape[-1]} columns of draft_logits")
    return vocab
