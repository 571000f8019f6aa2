"""Ranges of rule parameters, declared on the dataclass field and checked when a rule is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from spec_cascade.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

_KEY = "range"


@dataclass(frozen=True, slots=True)
class Number:
    """A real or whole number between two bounds, both included unless infinite bounds are not (``finite``)."""

    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    finite: bool = False

    def read(self, field: str, value: object) -> float | int:
        """The value as a number.

        Raises:
            ConfigError: It is not a number, or not in the range.
        """
        number = self._number(value)
        if number is None or not self.low <= number <= self.high or (self.finite and math.isinf(number)):
            raise ConfigError(field, value, str(self))
        return number

    def _number(self, value: object) -> float | int | None:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            return None
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return None
        if not self.whole:
            return number
        return int(value if isinstance(value, int) else number) if number.is_integer() else None

    def __str__(self) -> str:
        kind = "an integer" if self.whole else "a finite number" if self.finite else "a number"
        if math.isinf(self.low) and math.isinf(self.high):
            return kind
        if math.isinf(self.high):
            return f"{kind} >= {self.low:g}"
        if math.isinf(self.low):
            return f"{kind} <= {self.high:g}"
        return f"{kind} in [{self.low:g}, {self.high:g}]"

    @property
    def interval(self) -> str:
        """The range in short, for tables."""
        low = "(-inf" if self.finite and math.isinf(self.low) else f"[{self.low:g}"
        high = "inf)" if (self.finite or self.whole) and math.isinf(self.high) else f"{self.high:g}]"
        return f"{low}, {high}{' whole' if self.whole else ''}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words."""

    words: tuple[str, ...]

    def read(self, field: str, value: object) -> str:
        """The value, if it is one of the words.

        Raises:
            ConfigError: It is not.
        """
        if not isinstance(value, str) or value not in self.words:
            hint = did_you_mean(value, self.words) if isinstance(value, str) else ""
            raise ConfigError(field, value, f"{self}{hint}")
        return value

    def __str__(self) -> str:
        return f"one of {', '.join(self.words)}"

    @property
    def interval(self) -> str:
        """The range in short, for tables."""
        return " | ".join(self.words)


Range = Number | Choice


def within(low: float = -math.inf, high: float = math.inf, *, finite: bool = False) -> Mapping[str, Range]:
    """Metadata of a float field: ``alpha: float = field(metadata=within(-1, 1))``."""
    return MappingProxyType({_KEY: Number(low, high, finite=finite)})


def whole(low: float = -math.inf, high: float = math.inf) -> Mapping[str, Range]:
    """Metadata of an int field."""
    return MappingProxyType({_KEY: Number(low, high, whole=True)})


def one_of(*words: str) -> Mapping[str, Range]:
    """Metadata of a str field."""
    return MappingProxyType({_KEY: Choice(words)})


def ranges(rule_class: type) -> dict[str, Range | None]:
    """The range of each parameter of a rule class, in order; None where neither range nor a plain type is declared."""
    plain: dict[Any, Range] = {"float": Number(), float: Number(), "int": Number(whole=True), int: Number(whole=True)}
    return {f.name: f.metadata.get(_KEY, plain.get(f.type)) for f in fields(rule_class) if f.init}
