"""A registry that keeps what it is told, and is as strict as the server's."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec_cascade.serving.metric_families import Family


@dataclass
class RecordingRegistry:
    """Implements `metrics.Registry`.

    Attributes:
        values: Counters and gauges, by name and label values.
        observed: What each histogram was told.
        updates: How many there were.
        threads: Those that updated.
        is_closed: Whether it was; no update may come later.
    """

    values: dict[tuple[str, ...], float] = field(default_factory=dict)
    observed: dict[str, list[float]] = field(default_factory=dict)
    updates: int = 0
    threads: set[int] = field(default_factory=set)
    is_closed: bool = False

    def metric(self, family: Family, *labels: str) -> Series:
        assert len(labels) == len(family.labels)
        return Series(self, family, (family.name, *labels))

    def close(self) -> None:
        self.is_closed = True

    def update(self) -> None:
        assert not self.is_closed
        self.updates += 1
        self.threads.add(threading.get_ident())

    def of(self, family: Family) -> dict[tuple[str, ...], float]:
        """The values of a family by label values."""
        return {key[1:]: value for key, value in list(self.values.items()) if key[0] == family.name}


@dataclass
class Series:
    """Implements `metrics.Metric`."""

    registry: RecordingRegistry
    family: Family
    key: tuple[str, ...]

    def increment(self, value: float) -> None:
        self.registry.update()
        assert self.family.kind == "counter"
        assert value >= 0
        self.registry.values[self.key] = self.registry.values.get(self.key, 0) + value

    def set(self, value: float) -> None:
        self.registry.update()
        assert self.family.kind == "gauge"
        self.registry.values[self.key] = value

    def observe(self, value: float) -> None:
        self.registry.update()
        assert self.family.kind == "histogram"
        self.registry.observed.setdefault(self.family.name, []).append(value)
