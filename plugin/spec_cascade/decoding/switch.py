"""Whether speculation is on: off when it does not pay, and never for good."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SwitchSettings:
    """When a switch turns.

    Attributes:
        off_below: Expected speed-up under which it turns off.
        on_above: Expected speed-up from which it turns on again; the gap keeps it from fluttering.
        probe_after: Rounds off after which it tries again: what made it slow may have passed.
        probe_rounds: Rounds with judged drafts of one such trial.
    """

    off_below: float = 1.0
    on_above: float = 1.05
    probe_after: int = 64
    probe_rounds: int = 4


@dataclass(slots=True)
class Switch:
    """One request's, or the whole batch's."""

    settings: SwitchSettings
    on: bool = True
    rounds_off: int = 0
    rounds_tried: int = 0

    @property
    def probes(self) -> bool:
        """Whether it tries, against expectation."""
        return not self.on and self.rounds_off >= self.settings.probe_after

    def decide(self, speed_up: float) -> bool:
        """Whether to speculate in this round, given what is expected of it."""
        if speed_up < self.settings.off_below if self.on else speed_up >= self.settings.on_above:
            self.on = not self.on
            self.rounds_off = self.rounds_tried = 0
        if self.on or self.probes:
            return True
        self.rounds_off += 1
        return False

    def judged(self) -> None:
        """Drafts were judged: a trial ends after so many such rounds, not before the drafter has caught up."""
        if self.probes:
            self.rounds_tried += 1
            if self.rounds_tried == self.settings.probe_rounds:
                self.rounds_off = self.rounds_tried = 0
