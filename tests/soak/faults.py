"""What goes wrong during the soak, at random moments."""

from __future__ import annotations

import random
from threading import Event, Thread
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from tests.soak.rig import Rig

_SECONDS_BETWEEN = 0.7


class Gremlin(Thread):
    """Lets the drafter raise, run out of memory or give NaN, and now and then the target raise."""

    def __init__(self, rig: Rig, stop: Event, seed: int) -> None:
        super().__init__(name="gremlin", daemon=True)
        self._rig, self._stopping, self._dice = rig, stop, random.Random(seed)

    def run(self) -> None:
        """Until stopped; nothing fails afterwards."""
        dice, rig = self._dice, self._rig
        while not self._stopping.wait(dice.uniform(0.5, 1.5) * _SECONDS_BETWEEN):
            kind = dice.choices(("raise", "memory", "nan", "target"), (4, 4, 2, 1))[0]
            after, inside = dice.randrange(4), dice.random() < 0.5
            if kind == "raise":
                rig.drafter.fail(RuntimeError("the drafter fails, as planned"), after=after, inside=inside)
            elif kind == "memory":
                rig.drafter.fail(torch.OutOfMemoryError("planned"), after=after, inside=inside)
            elif kind == "target":
                rig.target.fail(RuntimeError("the target fails, as planned"), after=after, inside=inside)
            else:
                bad = dice.randrange(len(rig.drafter.cache.lengths))
                rig.drafter.poisoned = lambda slot, bad=bad: slot == bad  # type: ignore[misc]
                self._stopping.wait(0.02)
                rig.drafter.poisoned = lambda _slot: False
        rig.drafter.heal()
        rig.target.heal()
