"""The table of rules, made from what each class says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.rules.parameters import ranges
from spec_cascade.rules.registry import BUILT_IN, installed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from spec_cascade.rules.base import DeferralRule

HEADINGS = ("rule", "family", "formula", "parameters", "strict at", "drafter only at", "law", "fused", "source")


def lines(kinds: Iterable[type[DeferralRule]] | None = None) -> list[tuple[str, ...]]:
    """One line under `HEADINGS` per rule class; None takes the built-in ones and those of installed packages."""
    return [_line(kind) for kind in (kinds if kinds is not None else (*BUILT_IN, *installed().values()))]


def markdown() -> str:
    """The built-in rules as a Markdown table; what stands in ``docs/rules.md``."""
    rows = [HEADINGS, tuple("---" for _ in HEADINGS), *lines(BUILT_IN)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)


def parameters(kind: type[DeferralRule]) -> str:
    """The parameters with their ranges."""
    return "; ".join(f"{name} {allowed.interval}" for name, allowed in ranges(kind).items() if allowed is not None)


def _line(kind: type[DeferralRule]) -> tuple[str, ...]:
    about = kind.about
    # On a guard these are properties that ask the rule inside.
    law = {True: "yes", False: "no"}.get(kind.has_law, "as its rule")
    if about is None:
        return (kind.name, "", "", parameters(kind), "", "", law, "no" if kind.kernel_code is None else "yes", "")
    return (
        kind.name if about.alias is None else f"{kind.name} ({about.alias})",
        about.family,
        about.formula,
        parameters(kind),
        about.strict,
        about.drafter_only,
        law,
        about.fused or ("no" if kind.kernel_code is None else "yes"),
        about.source,
    )
