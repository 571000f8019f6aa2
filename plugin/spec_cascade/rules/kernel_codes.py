"""Numbers by which the fused kernels know the closed-form rules: the contract between a rule class and a kernel."""

from __future__ import annotations

from enum import IntEnum


class KernelCode(IntEnum):
    """The closed form that a kernel runs; `DeferralRule.kernel_parameters` says with which numbers.

    A rule whose `kernel_code` is None has no fused form and runs in the reference. Every form below is a `KeepRule`,
    except `TARGET_ONLY`, which has the law of `STRICT`.
    """

    STRICT = 0
    """Keep nothing."""
    CHOW = 1
    """(alpha): ``max q~ >= 1 - alpha``."""
    CHOW_LOG = 2
    """(alpha): ``H(q~) <= alpha``."""
    DIFF = 3
    """(alpha): ``max q~ >= max p~ - alpha``."""
    DIFF_LOG = 4
    """(alpha): ``H(q~) <= H(p~) + alpha``."""
    OPT = 5
    """(alpha): ``max q~ >= max p~ - alpha D_TV(p, q)``, where ``alpha * 0 = 0`` for an infinite alpha too."""
    TOKEN_V1 = 6
    """(alpha): ``q~(v) >= max p~ - alpha``."""
    TOKEN_V2 = 7
    """(alpha): ``p~(v) >= max p~ - alpha``."""
    TOKEN_V3 = 8
    """(alpha): ``p~(v) >= (1 - alpha) max p~``."""
    TOP_K = 9
    """(k): ``p~(v) >=`` the k-th largest ``p~``."""
    MARGIN = 10
    """(alpha): as TOKEN_V3, and ``p~(v) >=`` the second largest ``p~``."""
    DIVERGENCE_TV = 11
    """(alpha): ``D_TV(p, q) <= alpha`` on the sampling rows."""
    DRAFTER_ONLY = 12
    """Keep everything."""
    TARGET_ONLY = 13
    """Keep nothing."""
