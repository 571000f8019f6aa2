"""How many tokens to draft: fixed, automatic, or none while drafting does not pay."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spec_cascade.decoding.acceptance import AcceptanceByRule
from spec_cascade.decoding.costs import RoundCosts
from spec_cascade.decoding.request import AUTO
from spec_cascade.decoding.switch import Switch, SwitchSettings

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.acceptance import Acceptance
    from spec_cascade.decoding.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """How the engine drafts where a request leaves it the choice.

    Attributes:
        max_draft_length: Largest K that `AUTO` picks.
        fallback: Whether the engine's default K, too, gives way to plain decoding while it does not pay. What a
            request orders, and a default without this, is drafted come what may.
        first_length: K of an automatic request until enough has been seen, and of one that must be reproducible.
        min_steps: Judged blocks, of the request or of its rule, before anything is concluded from them.
        switch: When speculation turns off and on.
        pause_rounds: Rounds without drafts after the drafter failed.
    """

    max_draft_length: int
    fallback: bool = False
    first_length: int = 4
    min_steps: int = 8
    switch: SwitchSettings = field(default_factory=SwitchSettings)
    pause_rounds: int = 64


@dataclass(slots=True)
class Speculation:
    """What the policy knows of one request."""

    acceptance: Acceptance
    switch: Switch


class DraftPolicy:
    """Picks each live request's K, round by round.

    A request's expected speed-up at K is that of a batch in which all do as it does: tokens of a round, from its
    acceptance by position, times what a plain round costs, over what such a round costs. The batch as a whole
    speculates while the sum of all choices pays, and otherwise decodes plainly.
    """

    def __init__(self, settings: PolicySettings) -> None:
        self.settings = settings
        self.costs = RoundCosts()
        self._rules = AcceptanceByRule()
        self._known: dict[Sequence, Speculation] = {}
        self._batch = Switch(settings.switch)
        self._judged = False
        self._pause = 0

    @property
    def paused(self) -> bool:
        """Whether the drafter rests after a failure."""
        return self._pause > 0

    def pause(self) -> None:
        """The drafter failed: no drafts for a while."""
        self._pause = self.settings.pause_rounds

    def choose(self, batch: Seq[Sequence]) -> list[int]:
        """K of each live sequence, before the ends of its output and of the cache shorten it; 0 leaves it alone."""
        if self._judged:
            self._batch.judged()
            self._judged = False
        if self._pause:
            self._pause -= 1
            return [0] * len(batch)
        lengths = [self._length(sequence, len(batch)) for sequence in batch]
        free = [b for b, sequence in enumerate(batch) if lengths[b] and self._joins(sequence)]
        if free and not self._batch.decide(self._gain(batch, lengths, free)):
            for b in free:
                lengths[b] = 0
        return lengths

    def observe(self, sequence: Sequence, drafted: int, accepted: int) -> None:
        """Learn from a judged block, before any stop condition cut it."""
        known = self._of(sequence)
        known.acceptance.record(drafted, accepted)
        known.switch.judged()
        self._judged = True

    def forget(self, sequence: Sequence) -> None:
        """The request has ended."""
        self._known.pop(sequence, None)

    def forget_costs(self) -> None:
        """Measure anew."""
        self.costs = RoundCosts()

    def forget_acceptance(self) -> None:
        """What was seen of rules so far was no client's text."""
        self._rules = AcceptanceByRule()
        self._batch = Switch(self.settings.switch)

    def _is_free(self, sequence: Sequence) -> bool:
        """Whether the policy may choose for this request."""
        return not sequence.draft_length_is_fixed and (self.settings.fallback or sequence.draft_length == AUTO)

    def _joins(self, sequence: Sequence) -> bool:
        """Whether the batch may overrule the request's length: it is no order, and no trial."""
        return self._is_free(sequence) and not self._of(sequence).switch.probes

    def _of(self, sequence: Sequence) -> Speculation:
        if sequence not in self._known:
            acceptance = self._rules.of(sequence.statistics.rule)
            self._known[sequence] = Speculation(acceptance, Switch(self.settings.switch))
        return self._known[sequence]

    def _length(self, sequence: Sequence, batch_size: int) -> int:
        if not sequence.may_draft:
            return 0
        automatic = sequence.draft_length == AUTO
        first = min(self.settings.first_length, self.settings.max_draft_length) if automatic else sequence.draft_length
        if not self._is_free(sequence):
            return first
        known = self._of(sequence)
        if not self.costs.known or not self._has_sample(known.acceptance):
            return first
        longest = self.settings.max_draft_length if automatic else first
        speed_ups = self._speed_ups(known.acceptance, longest, batch_size)
        best = max(range(1, longest + 1), key=speed_ups.__getitem__) if automatic else first
        return best if known.switch.decide(speed_ups[best]) else 0

    def _has_sample(self, acceptance: Acceptance) -> bool:
        shared = 0 if acceptance.prior is None else acceptance.prior.num_steps
        return max(acceptance.num_steps, shared) >= self.settings.min_steps

    def _speed_ups(self, acceptance: Acceptance, longest: int, batch_size: int) -> list[float]:
        """What is expected of 0, 1, ... ``longest`` drafted tokens, were all of the batch to draft as many."""
        plain = self.costs.round_seconds([0] * batch_size)
        return [
            tokens * plain / self.costs.round_seconds([length] * batch_size)
            for length, tokens in enumerate(acceptance.expected_tokens(longest))
        ]

    def _gain(self, batch: Seq[Sequence], lengths: list[int], free: list[int]) -> float:
        """Tokens per second of the choices over those without them; 1 or more while too little is known."""
        if not self.costs.known or not all(self._has_sample(self._of(batch[b]).acceptance) for b in free):
            return self.settings.switch.on_above
        without = [0 if b in free else length for b, length in enumerate(lengths)]
        return self._rate(batch, lengths) / self._rate(batch, without)

    def _rate(self, batch: Seq[Sequence], lengths: list[int]) -> float:
        tokens = sum(
            self._of(sequence).acceptance.expected_tokens(length)[length] if length else 1.0
            for sequence, length in zip(batch, lengths, strict=True)
        )
        return tokens / self.costs.round_seconds(lengths)
