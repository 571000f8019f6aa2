"""What a rule emits at one position, worked out from its acceptance and residual: the check that they give its law."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.rules.rows import Rows, row_sum

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule


def emission(rule: DeferralRule, rows: Rows) -> Tensor:
    """The distribution ``[..., V]`` of the token emitted at positions with rows ``[..., V]``, when drafted from q.

    ``sum_x q(x) (a(x) [v = x] + (1 - a(x)) residual_x(v))`` over all drafted x: quadratic in V, for small vocabularies.
    An empty residual stands for p, as in `verify`.
    """
    shape = rows.target_probs.shape
    drafted = torch.arange(shape[-1]).expand(shape)
    each = Rows(
        *(
            row.unsqueeze(-2).expand(*shape, shape[-1])
            for row in (rows.draft_probs, rows.target_probs, rows.draft_gate, rows.target_gate)
        )
    )
    chance = rule.acceptance(rows)
    residual = rule.residual(each, drafted)
    residual = torch.where(row_sum(residual) > 0, residual, each.target_probs)
    residual = residual / row_sum(residual)
    rejected = (rows.draft_probs * (1 - chance)).unsqueeze(-1)
    return rows.draft_probs * chance + (rejected * residual).sum(-2)


def expected_acceptance(rule: DeferralRule, rows: Rows) -> Tensor:
    """Probability ``[...]`` that a token drafted from q is accepted."""
    return row_sum(rows.draft_probs * rule.acceptance(rows)).squeeze(-1)
