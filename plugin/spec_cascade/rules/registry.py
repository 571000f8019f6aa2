"""Names of rules: built in, brought by an installed package, or named by their place in a module."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import isabstract

from spec_cascade.errors import ConfigError, did_you_mean
from spec_cascade.rules.base import DeferralRule
from spec_cascade.rules.baseline import DrafterOnly, Strict, TargetOnly
from spec_cascade.rules.compose import AllOf, AnyOf
from spec_cascade.rules.divergence import Divergence
from spec_cascade.rules.drafted import Cactus, Ears, Relaxed, Typical
from spec_cascade.rules.guards import Phase, Schedule, StrictPrefix
from spec_cascade.rules.mixture import Lossy, Mentored, Mix
from spec_cascade.rules.row import Chow, ChowLog, Diff, DiffLog, Opt
from spec_cascade.rules.support import TargetSupport
from spec_cascade.rules.token import Margin, TokenV1, TokenV2, TokenV3, TopK

GROUP = "spec_cascade.rules"
FIELD = "deferral_rule"

BUILT_IN: tuple[type[DeferralRule], ...] = (
    Strict,
    DrafterOnly,
    TargetOnly,
    Chow,
    ChowLog,
    Diff,
    DiffLog,
    Opt,
    Divergence,
    TokenV1,
    TokenV2,
    TokenV3,
    TopK,
    Margin,
    Mix,
    Lossy,
    Mentored,
    Cactus,
    Ears,
    Typical,
    Relaxed,
    AllOf,
    AnyOf,
    StrictPrefix,
    TargetSupport,
    Phase,
    Schedule,
)
BY_NAME: dict[str, type[DeferralRule]] = {rule.name: rule for rule in BUILT_IN}
ALIASES: dict[str, str] = {rule.about.alias: rule.name for rule in BUILT_IN if rule.about and rule.about.alias}


def rule_class(name: str, *, allow_import: bool = True) -> type[DeferralRule]:
    """The class that a name stands for.

    Args:
        name: A built-in name or alias, the name of an entry point of the group ``spec_cascade.rules``, or
            ``package.module:Class``.
        allow_import: Whether ``package.module:Class`` may import the module; never for names that a client sent.

    Raises:
        ConfigError: There is no such rule, or it is not one.
    """
    if name in BY_NAME or name in ALIASES:
        return BY_NAME[ALIASES.get(name, name)]
    if name in _entry_points():
        return _checked(name, _entry_points()[name].load())
    if ":" in name and allow_import:
        return _imported(name)
    known = (*BY_NAME, *ALIASES, *_entry_points())
    raise ConfigError(FIELD, name, f"one of {', '.join(sorted(known))}{did_you_mean(name, known)}")


def installed() -> dict[str, type[DeferralRule]]:
    """The rules that installed packages bring, by name."""
    return {name: rule_class(name) for name in sorted(_entry_points())}


def spelling(rule: type[DeferralRule]) -> str:
    """The name by which `rule_class` finds the class again."""
    name = rule.name
    if BY_NAME.get(name) is rule or (name in _entry_points() and rule_class(name) is rule):
        return name
    return f"{rule.__module__}:{rule.__qualname__}"


@cache
def _entry_points() -> dict[str, EntryPoint]:
    found = {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}
    taken = sorted(set(found) & {*BY_NAME, *ALIASES})
    if taken:
        raise ConfigError(f"entry point group {GROUP}", taken[0], "a name that no built-in rule has")
    return found


def _imported(name: str) -> type[DeferralRule]:
    module_name, _, class_name = name.partition(":")
    try:
        found: object = importlib.import_module(module_name)
        for part in class_name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(FIELD, name, f"an importable module:Class ({error})") from error
    return _checked(name, found)


def _checked(name: str, found: object) -> type[DeferralRule]:
    if isinstance(found, type) and issubclass(found, DeferralRule) and not isabstract(found):
        return found
    raise ConfigError(FIELD, name, "a class that implements spec_cascade.rules.DeferralRule")
