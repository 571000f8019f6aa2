"""From acceptances and costs to what speculation is worth: pure arithmetic.

The tokens of a round follow the target's own text: a block drafted at place t is taken to stand through its first k
tokens with probability ``a[t] a[t+1] ... a[t+k-1]``, so that a round with K drafts gives
``1 + sum_{k=1..K} mean_t prod_{i<k} a[t+i]`` tokens, the mean being over all places of all texts that k tokens of the
same text follow. Strict verification leaves the target's text as it is; a lossy rule's own text would drift from it.
An engine gives a little less, some per cent where drafts are good: its rounds begin more often where a draft was just
rejected, and the end of an output cuts its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

LONGEST = 8
"""Largest K that is looked at."""
_HARDLY_EVER = 0.05


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of the parts of a round, one sequence.

    Attributes:
        draft: One step of the drafter, the choice of its token included.
        score: The target's forward over K + 1 tokens, by K from 0.
        verify: Judging K drafts and drawing the token that follows, by K from 0.
    """

    draft: float
    score: Sequence[float]
    verify: Sequence[float]

    @property
    def ratio(self) -> float:
        """c: a step of the drafter over a forward of the target, each with one token."""
        return self.draft / self.score[0]

    def round(self, length: int) -> float:
        """Seconds of a round with so many drafts; 0 is a step of plain decoding."""
        return length * self.draft + self.score[length] + self.verify[length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What speculation is worth with one rule; the entries of each tuple belong to K = 1, 2, ...

    Attributes:
        acceptance: Mean acceptance of a drafted token over all places.
        stand: Probability that the first k drafts of a block all stand.
        tokens: Tokens for each call of the target.
        speed_ups: Seconds per token of plain decoding over those of speculation.
        ratio: c.
    """

    acceptance: float
    stand: tuple[float, ...]
    tokens: tuple[float, ...]
    speed_ups: tuple[float, ...]
    ratio: float

    @property
    def best(self) -> int:
        """The K with the greatest speed-up, the smallest of equals."""
        return 1 + int(np.argmax(self.speed_ups))

    @property
    def best_tokens(self) -> float:
        """Tokens for each call of the target at that K."""
        return self.tokens[self.best - 1]

    @property
    def best_speed_up(self) -> float:
        """The greatest speed-up."""
        return self.speed_ups[self.best - 1]

    @property
    def positions(self) -> tuple[float, ...]:
        """Acceptance of the k-th draft of a block, given that all before it stand."""
        before = (1.0, *self.stand)
        return tuple(min(1.0, now / last) if last else 0.0 for now, last in zip(self.stand, before, strict=False))

    @property
    def pays(self) -> bool:
        """Whether it is faster at any K, by as much as two decimals show."""
        return round(self.best_speed_up, 2) > 1

    @property
    def verdict(self) -> str:
        """Whether speculation pays, in a sentence."""
        if self.pays:
            return f"pays: K = {self.best}, {self.best_speed_up:.2f}x predicted"
        if self.acceptance < _HARDLY_EVER:
            return (
                f"acceptance {self.acceptance:.2f}: this drafter agrees with the target hardly ever; slower at every K"
            )
        return f"c = {self.ratio:.2f}, acceptance {self.acceptance:.2f}: slower at every K"


def predict(acceptances: Sequence[ArrayLike], costs: Costs) -> Prediction:
    """What to expect of a rule.

    Args:
        acceptances: Of each text, the acceptance of a token drafted at each of its places in turn, ``[n]``; at least
            one place in all. K ends with the longest text, or with the costs.
        costs: With this rule.

    Raises:
        ValueError: There is no place.
    """
    texts = [np.asarray(text, dtype=np.float64) for text in acceptances]
    if not any(text.size for text in texts):
        raise ValueError("acceptances has no place")
    stand = standing(texts, len(costs.score) - 1)
    tokens = tuple(accumulate(stand, initial=1.0))
    plain = costs.round(0)
    return Prediction(
        acceptance=float(np.concatenate(texts).mean()),
        stand=stand,
        tokens=tokens[1:],
        speed_ups=tuple(tokens[k] * plain / costs.round(k) for k in range(1, len(tokens))),
        ratio=costs.ratio,
    )


def standing(acceptances: Sequence[ArrayLike], longest: int) -> tuple[float, ...]:
    """``mean_t prod_{i<k} a[t+i]`` for k = 1, 2, ... up to ``longest`` or the longest text.

    A window does not leave its text.
    """
    texts = [np.asarray(text, dtype=np.float64) for text in acceptances]
    products, stand = texts, []
    for k in range(1, longest + 1):
        if k > 1:
            products = [product[:-1] * text[k - 1 :] for product, text in zip(products, texts, strict=True)]
        windows = np.concatenate(products)
        if not windows.size:
            break
        stand.append(float(windows.mean()))
    return tuple(stand)
