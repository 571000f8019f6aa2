"""What a drafter is scored under: every rule at the parameters of the table of rules, and greedy decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade.rules import check_draft_mode, parse_rule, with_default_guards
from spec_cascade.rules.registry import BUILT_IN, installed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.rules import DeferralRule

GREEDY = "greedy"
STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Way:
    """A way of decoding.

    Attributes:
        name: As it was asked for, or `GREEDY`.
        rule: The rule, with the guards that an engine puts around it.
        temperature: Of both models' rows.
    """

    name: str
    rule: DeferralRule
    temperature: float


def ways(asked: Sequence[str], *, temperature: float, argmax_drafts: bool) -> tuple[list[Way], list[str]]:
    """Strict, the other rules, and greedy decoding; and why rules are left out, a sentence each.

    Args:
        asked: Rules beside strict; empty takes every one that drafts, guards left out: they only say where another
            rule holds.
        temperature: Of the rules.
        argmax_drafts: Whether the drafter proposes the argmax of its rows.

    Raises:
        ConfigError: A rule that was asked for is unknown, or means nothing with this drafter.
    """
    found, remarks = [], []
    for name in dict.fromkeys((STRICT, *(asked or _every()))):
        rule = with_default_guards(parse_rule(name))
        if not asked and not rule.drafts:
            continue
        refusal = _refusal(rule, argmax_drafts)
        if refusal is None:
            found.append(Way(name, rule, temperature))
        elif asked:
            raise refusal
        else:
            remarks.append(f"{name} is left out: {refusal}")
    return [*found, Way(GREEDY, parse_rule(STRICT), 0.0)], remarks


def _refusal(rule: DeferralRule, argmax_drafts: bool) -> ConfigError | None:
    if not rule.drafts:
        return ConfigError("deferral_rule", str(rule), "a rule that drafts")
    try:
        check_draft_mode(rule, argmax_drafts=argmax_drafts, gates_available=True)
    except ConfigError as error:
        return error
    return None


def _every() -> list[str]:
    """The rules of the table, as it shows them; one that says nothing of itself at its own defaults."""
    kinds = {kind.name: kind for kind in BUILT_IN} | installed()
    return [
        kind.about.example if kind.about is not None else name
        for name, kind in kinds.items()
        if kind.about is None or kind.about.family != "guard"
    ]
