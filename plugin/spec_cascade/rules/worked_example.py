"""One rule at work on one position with four tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.console import Group
from rich.table import Table

from spec_cascade.rules.base import KeepRule, Rows
from spec_cascade.rules.emission import emission, expected_acceptance
from spec_cascade.rules.row import total_variation

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule

_TOKENS = "ABCD"
_DRAFTER = (0.5, 0.3, 0.15, 0.05)
_TARGET = (0.7, 0.1, 0.15, 0.05)


def worked_example(rule: DeferralRule) -> Group:
    """What the rule keeps, accepts and emits, computed from its own acceptance and residual."""
    q, p = (torch.tensor(row, dtype=torch.float64) for row in (_DRAFTER, _TARGET))
    rows = Rows(q, p, q, p)
    emitted = emission(rule, rows)
    columns: dict[str, Tensor] = {"q (drafter)": q, "p (target)": p}
    if isinstance(rule, KeepRule):
        columns["kept"] = rule.kept(rows).expand_as(q)
    columns["accepted if drafted"] = rule.acceptance(rows)
    columns["emitted"] = emitted
    table = Table("token", *columns, title=f"{rule}, at temperature 1")
    for token, *cells in zip(_TOKENS, *(column.tolist() for column in columns.values()), strict=True):
        table.add_row(token, *("yes" if cell is True else "no" if cell is False else f"{cell:.4f}" for cell in cells))
    strict, accepted = torch.minimum(q, p).sum(), expected_acceptance(rule, rows)
    distance = total_variation(Rows(emitted, p, q, p))
    return Group(
        table,
        f"A draft is accepted with probability {accepted:.4f} (strict: {strict:.4f}); "
        f"what is emitted is {distance.item():.4f} from the target in total variation.",
        "" if rule.has_law else "The rule has no law: 'emitted' holds for a token drafted from q.",
    )
