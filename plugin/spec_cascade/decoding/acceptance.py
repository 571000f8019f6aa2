"""How often drafts stand, by their position in the block."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_FIRST_GUESS = 0.7
"""Chance that a draft stands where nothing has been seen: what a usable pair reaches."""
_PRIOR_WEIGHT = 8.0
"""Observations of one request that count as much as all that was seen of others."""
_MEMORY = 64.0
_MOST_RULES = 64


@dataclass(slots=True)
class Acceptance:
    """Chances that the draft at each position stands, given that all before it did; recent blocks count more.

    Attributes:
        prior: What to believe where this has seen little; None is a first guess.
        num_steps: Blocks seen.
    """

    prior: Acceptance | None = None
    num_steps: int = 0
    _reached: list[float] = field(default_factory=list)
    _stood: list[float] = field(default_factory=list)

    def record(self, drafted: int, accepted: int) -> None:
        """Learn from one judged block, before any stop condition cuts it."""
        self.num_steps += 1
        if self.prior is not None:
            self.prior.record(drafted, accepted)
        missing = drafted - len(self._reached)
        self._reached.extend([0.0] * missing)
        self._stood.extend([0.0] * missing)
        for k in range(min(accepted + 1, drafted)):
            self._reached[k] = self._reached[k] * (1 - 1 / _MEMORY) + 1
            self._stood[k] = self._stood[k] * (1 - 1 / _MEMORY) + (k < accepted)

    def chances(self, length: int) -> list[float]:
        """The chance at each of ``length`` positions; a position never reached is as good as the one before it."""
        priors = [_FIRST_GUESS] * length if self.prior is None else self.prior.chances(length)
        chances: list[float] = []
        for k, prior in enumerate(priors):
            if k < len(self._reached) and self._reached[k] > 0:
                chances.append((self._stood[k] + _PRIOR_WEIGHT * prior) / (self._reached[k] + _PRIOR_WEIGHT))
            else:
                chances.append(min(prior, chances[-1]) if chances else prior)
        return chances

    def expected_tokens(self, length: int) -> list[float]:
        """Tokens that a round emits on average with 0, 1, ... ``length`` drafted: 1 + a1 + a1 a2 + ..."""
        tokens, chance = [1.0], 1.0
        for each in self.chances(length):
            chance *= each
            tokens.append(tokens[-1] + chance)
        return tokens


class AcceptanceByRule:
    """What an engine has seen of each rule; a bounded number of them, since clients name the rules."""

    def __init__(self) -> None:
        self._rules: OrderedDict[str, Acceptance] = OrderedDict()

    def of(self, rule: str) -> Acceptance:
        """A request's own record, which starts from what was seen of its rule."""
        seen = self._rules.setdefault(rule, Acceptance())
        self._rules.move_to_end(rule)
        if len(self._rules) > _MOST_RULES:
            self._rules.popitem(last=False)
        return Acceptance(prior=seen)
