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
        probe_rounds: Rounds of one such trial.
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

    @property
    def probes(self) -> bool:
        """Whether the last decision was to try, against expectation."""
        return not self.on and self.rounds_off > self.settings.probe_after

    def decide(self, speed_up: float) -> bool:
        """Whether to speculate in this round, given what is expected of it."""
        if self.on:
            self.on = speed_up >= self.settings.off_below
            self.rounds_off = 0
        elif speed_up >= self.settings.on_above:
            self.on = True
        if self.on:
            return True
        self.rounds_off += 1
        if self.rounds_off > self.settings.probe_after + self.settings.probe_rounds:
            self.rounds_off = 1
        return self.probes
