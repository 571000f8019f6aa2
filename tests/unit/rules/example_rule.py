"""An example of a rule from outside: it gives its law and nothing else, and works everywhere.

Name it ``tests.unit.rules.example_rule:GeometricMean:weight=0.5`` in a pair file, or publish it from a package::

    [project.entry-points."spec_cascade.rules"]
    geometric_mean = "my_package.rules:GeometricMean"

after which it goes by its name, ``geometric_mean:weight=0.5``. Its acceptance and residual follow from the law, at the
price of a few dense rows per position; a rule that can do better overrides `acceptance`, `judge` and `residual`, or is
a `KeepRule` that gives its keep set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from spec_cascade.rules import DeferralRule
from spec_cascade.rules.parameters import within

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GeometricMean(DeferralRule):
    """``pi`` proportional to ``p ** weight * q ** (1 - weight)``.

    Range of weight: (0, 1]; strict at 1. Rows must share a token.
    """

    weight: float = field(metadata=within(0, 1))
    name: ClassVar[str] = "geometric_mean"

    @property
    def lossy(self) -> bool:
        """At weight < 1."""
        return self.weight < 1

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """See the class."""
        product = target_probs**self.weight * draft_probs ** (1 - self.weight)
        return product / product.sum(-1, keepdim=True)
