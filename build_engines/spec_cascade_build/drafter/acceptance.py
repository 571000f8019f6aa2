"""How often a drafted token stands: the number that a drafter is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.rules.emission import expected_acceptance

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules import DeferralRule, Rows


def acceptance(rule: DeferralRule, rows: Rows) -> Tensor:
    """Probability ``[...]`` that ``rule`` accepts a token drafted from q: ``sum_v q(v) a(v)``.

    For `Strict` this is ``sum_v min(p(v), q(v))``, one less the total variation between the models
    (Leviathan et al. 2023, section 3). A guard or a schedule must be asked for its rule at the place first.

    Args:
        rule: Any rule, with a law or without.
        rows: q and q~ ``[..., V]``, or ``[..., Vd]`` with `Rows.draft_index`; p and p~ ``[..., V]``. Gate rows that
            the rule does not read may be empty.
    """
    known = rows if rule.drafter_columns else rows.whole()
    return expected_acceptance(rule, known).clamp(0, 1)
