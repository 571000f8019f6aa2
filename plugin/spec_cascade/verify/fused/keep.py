"""Keep sets in closed form: one threshold on a gate row per position, whatever the rule."""

from __future__ import annotations

import triton.language as tl

from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.verify.fused.jit import jit

_CHOW = tl.constexpr(int(KernelCode.CHOW))
_CHOW_LOG = tl.constexpr(int(KernelCode.CHOW_LOG))
_DIFF = tl.constexpr(int(KernelCode.DIFF))
_DIFF_LOG = tl.constexpr(int(KernelCode.DIFF_LOG))
_OPT = tl.constexpr(int(KernelCode.OPT))
_TOKEN_V1 = tl.constexpr(int(KernelCode.TOKEN_V1))
_TOKEN_V2 = tl.constexpr(int(KernelCode.TOKEN_V2))
_TOKEN_V3 = tl.constexpr(int(KernelCode.TOKEN_V3))
_TOP_K = tl.constexpr(int(KernelCode.TOP_K))
_MARGIN = tl.constexpr(int(KernelCode.MARGIN))
_DIVERGENCE_TV = tl.constexpr(int(KernelCode.DIVERGENCE_TV))
_DRAFTER_ONLY = tl.constexpr(int(KernelCode.DRAFTER_ONLY))


@jit
def keep_threshold(
    code: tl.tensor,
    parameter: tl.tensor,
    draft_peak: tl.tensor,
    target_peak: tl.tensor,
    draft_entropy: tl.tensor,
    target_entropy: tl.tensor,
    ranked: tl.tensor,
    distance: tl.tensor,
) -> tl.tensor:
    """The c for which a token v is kept iff its gate probability is at least c; -inf keeps all, +inf keeps none.

    The gate row is q~ for `TOKEN_V1` and p~ for all others (`reads_draft_row`). Scalars or blocks of one shape.

    Args:
        code: `KernelCode`.
        parameter: Its number, float64; rounded to float32 where torch rounds it.
        draft_peak: Largest q~.
        target_peak: Largest p~.
        draft_entropy: H(q~).
        target_entropy: H(p~).
        ranked: p~ at the rank that the rule asks for.
        distance: D_TV(p, q).
    """
    alpha = parameter.to(tl.float32)
    rest = (1.0 - parameter).to(tl.float32)
    keep = code == _DRAFTER_ONLY
    keep |= (code == _CHOW) & (draft_peak >= rest)
    keep |= (code == _CHOW_LOG) & (draft_entropy <= alpha)
    keep |= (code == _DIFF) & (draft_peak >= target_peak - alpha)
    keep |= (code == _DIFF_LOG) & (draft_entropy <= target_entropy + alpha)
    # An infinite alpha times no distance is no cost.
    cost = tl.where(distance > 0, alpha * distance, 0.0)
    keep |= (code == _OPT) & (draft_peak >= target_peak - cost)
    keep |= (code == _DIVERGENCE_TV) & (distance <= alpha)
    threshold = tl.where(keep, float("-inf"), float("inf"))
    factor = rest * target_peak
    threshold = tl.where((code == _TOKEN_V1) | (code == _TOKEN_V2), target_peak - alpha, threshold)
    threshold = tl.where(code == _TOKEN_V3, factor, threshold)
    threshold = tl.where(code == _TOP_K, ranked, threshold)
    return tl.where(code == _MARGIN, tl.maximum(factor, ranked), threshold)


@jit
def needs_distance(code: tl.tensor, parameter: tl.tensor, draft_peak: tl.tensor, target_peak: tl.tensor) -> tl.tensor:
    """Whether the rule's decision hangs on D_TV: `Opt` is settled where it decides the same at distance 0 and 1."""
    alpha = parameter.to(tl.float32)
    nearest = draft_peak >= target_peak
    farthest = draft_peak >= target_peak - alpha
    return (code == _DIVERGENCE_TV) | ((code == _OPT) & (nearest != farthest))


@jit
def is_token_rule(code: tl.tensor) -> tl.tensor:
    """Whether the rule looks at each token, so that it may keep some of a row."""
    return (code == _TOKEN_V1) | (code == _TOKEN_V2) | (code == _TOKEN_V3) | (code == _TOP_K) | (code == _MARGIN)


@jit
def reads_draft_row(code: tl.tensor) -> tl.tensor:
    """Whether the threshold applies to q~ rather than p~."""
    return code == _TOKEN_V1
