"""What decides a drafted position: the drafted token's probabilities, the gates, and the rule's number."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.verify.fused.cuts import in_prefix
from spec_cascade.verify.fused.jit import jit
from spec_cascade.verify.fused.keep import reads_draft_row
from spec_cascade.verify.fused.rows import FIELDS, load_rows


@jit
def read_positions(
    draft: tl.tensor,
    target: tl.tensor,
    draft_tokens: tl.tensor,
    codes: tl.tensor,
    row_fields: tl.tensor,
    row_indices: tl.tensor,
    tile_fields: tl.tensor,
    tile_best: tl.tensor,
    sequence: tl.tensor,
    ks: tl.tensor,
    limit: tl.tensor,
    heat: tl.tensor,
    hot: tl.tensor,
    draft_stride_b: tl.tensor,
    draft_stride_k: tl.tensor,
    target_stride_b: tl.tensor,
    target_stride_k: tl.tensor,
    draft_rows: tl.tensor,
    length: tl.tensor,
    vocab: tl.tensor,
    tiles: tl.tensor,
    inverse: tl.tensor,
    lanes: tl.constexpr,
    gates: tl.constexpr,
    entropy: tl.constexpr,
    truncates: tl.constexpr,
    ranks: tl.constexpr,
    finished: tl.constexpr,
    has_draft: tl.constexpr,
) -> tl.tensor:
    """The drafted positions ``ks`` of one sequence, read side by side.

    Positions from ``limit`` on come out as rubbish that must not be used, but for the target's row numbers at ``limit``
    itself, which the bonus token needs.

    Returns:
        Blocks shaped like ``ks``: token, code, the target's (peak logit, 1 / mass, 1 / gate mass, entropy, argmax,
        cut, tie), the drafter's, p(x), q(x), g(x) of the drafted token x on the row that the rule compares, g at the
        drafter's argmax, and p~ at the rule's rank.
    """
    drafted = ks < limit
    within = sequence * length + ks
    token = tl.load(draft_tokens + within, mask=drafted, other=0)
    # An id that does not exist must not lead out of the row; it has no probability.
    known = drafted & (token >= 0) & (token < vocab)
    code = tl.load(codes + within, mask=drafted, other=0)

    target_rows = draft_rows + sequence * (length + 1) + ks
    p_peak, p_scale, p_gate, p_entropy, p_best = load_rows(
        row_fields, row_indices, tile_fields, tile_best, target_rows, ks <= limit, inverse,
        vocab, tiles, lanes, gates, entropy, finished,
    )  # fmt: skip
    p_cut, p_tie = _load_cut(row_fields, row_indices, target_rows, ks <= limit, vocab, truncates)
    target_at = target + sequence * target_stride_b + ks.to(tl.int64) * target_stride_k
    p_logit = tl.load(target_at + token, mask=known, other=float("-inf")).to(tl.float32)
    p_x = tl.exp((p_logit - p_peak) * inverse) * p_scale
    p_x = tl.where(in_prefix(p_logit, token, p_cut, p_tie), p_x, 0.0)
    p_x = tl.where(heat == 0, (token == p_best).to(tl.float32), p_x)
    gate = tl.exp(p_logit - p_peak) * p_gate
    gate_best = gate

    # Without the drafter's logits its rows are one-hot at the drafted token.
    q_peak = p_peak * 0.0
    q_scale = q_peak + 1.0
    q_gate = q_scale
    q_entropy = q_peak
    q_best = token.to(tl.int32)
    q_cut = q_peak
    q_tie = q_best
    q_x = q_scale
    if has_draft:
        q_peak, q_scale, q_gate, q_entropy, q_best = load_rows(
            row_fields, row_indices, tile_fields, tile_best, within, drafted, inverse,
            vocab, tiles, lanes, gates, entropy, finished,
        )  # fmt: skip
        q_cut, q_tie = _load_cut(row_fields, row_indices, within, drafted, vocab, truncates)
        draft_at = draft + sequence * draft_stride_b + ks.to(tl.int64) * draft_stride_k
        q_logit = tl.load(draft_at + token, mask=known, other=float("-inf")).to(tl.float32)
        q_x = tl.exp((q_logit - q_peak) * inverse) * q_scale
        q_x = tl.where(in_prefix(q_logit, token, q_cut, q_tie), q_x, 0.0)
        q_x = tl.where(heat == 0, (token == q_best).to(tl.float32), q_x)
        q_x = tl.where(hot, 1.0, q_x)
        q_best = tl.where(hot, token.to(tl.int32), q_best)
        # Where q is one-hot, eta asks whether its one token is kept; that is x, unless the caller drafted otherwise.
        other = known & (heat == 0) & (q_best != token)
        p_logit = tl.load(target_at + q_best, mask=other, other=0.0).to(tl.float32)
        q_other = tl.load(draft_at + q_best, mask=other, other=0.0).to(tl.float32)
        gate_best = tl.where(other, tl.exp(p_logit - p_peak) * p_gate, gate)
        on_draft = reads_draft_row(code)
        gate = tl.where(on_draft, tl.exp(q_logit - q_peak) * q_gate, gate)
        gate_best = tl.where(on_draft, tl.where(other, tl.exp(q_other - q_peak) * q_gate, gate), gate_best)
    else:
        gate = tl.where(reads_draft_row(code), 1.0, gate)
        gate_best = gate
    ranked = p_peak
    if ranks:
        logit = tl.load(row_fields + target_rows.to(tl.int64) * FIELDS + 5, mask=drafted, other=0.0)
        ranked = tl.exp(logit - p_peak) * p_gate
    return (
        token, code,
        p_peak, p_scale, p_gate, p_entropy, p_best, p_cut, p_tie,
        q_peak, q_scale, q_gate, q_entropy, q_best, q_cut, q_tie,
        p_x, q_x, gate, gate_best, ranked,
    )  # fmt: skip


@jit
def _load_cut(
    row_fields: tl.tensor,
    row_indices: tl.tensor,
    rows: tl.tensor,
    valid: tl.tensor,
    vocab: tl.tensor,
    truncates: tl.constexpr,
) -> tl.tensor:
    """Last kept logit and index of rows; those of a row that keeps everything where nothing truncates."""
    cut = tl.full(rows.shape, float("-inf"), tl.float32)
    tie = tl.full(rows.shape, 0, tl.int32) + vocab
    if truncates:
        cut = tl.load(row_fields + rows.to(tl.int64) * FIELDS + 4, mask=valid, other=float("-inf"))
        tie = tl.load(row_indices + rows.to(tl.int64) * 2 + 1, mask=valid, other=0)
    return cut, tie
