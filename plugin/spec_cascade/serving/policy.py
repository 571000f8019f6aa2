"""What requests may ask for: the policy of a server, a YAML file that can change without a new engine.

All of it may be left out::

    rules:                  # the rules that may be named, by themselves or inside others; left out: every rule
      strict:
      token_v3: {alpha: [0, 0.5]}
      strict_prefix: {strict_prefix_tokens: [4, 64]}
    lossy: true             # false: only rules whose output is distributed as the target's
    default_rule: token_v3:alpha=0.3    # of a request that names none; left out: the engine's
    max_tokens: 512
    max_draft_length: 4
    max_priority: 0.5
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import DEFAULT_PRIORITY
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError, SpecCascadeError, did_you_mean
from spec_cascade.rules import DeferralRule, parse_rule
from spec_cascade.rules.parameters import Choice, Number, Range, ranges
from spec_cascade.rules.registry import FIELD, rule_class
from spec_cascade.yaml_file import read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spec_cascade.serving.parse import Fields

_BY_POLICY = "by this server's policy"


class PolicyError(SpecCascadeError):
    """A policy cannot be read, or says what cannot be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What requests may ask for; None is no limit.

    Attributes:
        rules: The rules that may be named, with ranges of some of their parameters, narrower than the rule's own.
        lossy: Whether a rule may change the distribution of the output.
        default_rule: The rule of a request that names none; None takes the engine's.
        max_tokens: Largest of a request; also its default, where that would be larger.
        max_draft_length: Largest that a request may name. The length that the engine picks where a request leaves it
            to the engine is bounded by the engine's own.
        max_priority: Largest of a request; also its default, where that would be larger.
    """

    rules: Mapping[type[DeferralRule], Mapping[str, Range]] | None = None
    lossy: bool = True
    default_rule: DeferralRule | None = None
    max_tokens: int | None = None
    max_draft_length: int | None = None
    max_priority: float | None = None

    def bounded(self, fields: Fields) -> Fields:
        """The fields of a request, with the default that holds here.

        Raises:
            ConfigError: A number is larger than this server allows.
        """
        limits = (
            ("max_tokens", self.max_tokens, SamplingParams().max_tokens),
            ("draft_length", self.max_draft_length, None),
            ("priority", self.max_priority, DEFAULT_PRIORITY),
        )
        bounded = dict(fields)
        for name, most, default in limits:
            value = fields.get(name, default)
            if most is None or not isinstance(value, (int, float)) or value <= most:
                continue
            # As FP32 a number may be a little more than it was.
            if name in fields and not math.isclose(value, most, rel_tol=1e-6):
                raise ConfigError(name, value, f"at most {most} {_BY_POLICY}")
            bounded[name] = most
        return bounded

    def rule(self, named: DeferralRule | None) -> DeferralRule | None:
        """The rule of a request that names this one, or none.

        Raises:
            ConfigError: It is not allowed here.
        """
        if named is None:
            return self.default_rule
        self.check(named)
        return named

    def check(self, rule: DeferralRule) -> None:
        """Refuse a rule that is not allowed here, or that has one inside that is not.

        Raises:
            ConfigError: It names the rule or the parameter.
        """
        if rule.lossy and not self.lossy:
            raise ConfigError(FIELD, str(rule), f"a rule that is not lossy {_BY_POLICY}, such as strict")
        if self.rules is None:
            return
        for part in _parts(rule):
            # By its very class: a subclass is another rule.
            allowed = self.rules.get(type(part))
            if allowed is None:
                names = ", ".join(sorted(kind.name for kind in self.rules))
                raise ConfigError(FIELD, part.name, f"made of {names} alone {_BY_POLICY}")
            for parameter, values in allowed.items():
                _check(f"{part.name}.{parameter}", getattr(part, parameter), values)


def load_policy(path: Path | str | None, engine_rule: DeferralRule) -> Policy:
    """Read a policy; without a file everything is allowed that the engine can do.

    Args:
        path: The file.
        engine_rule: The rule that the engine takes where nobody names one.

    Raises:
        PolicyError: It cannot be read, a field has a value that is not allowed, or the default rule is one that
            requests may not name.
    """
    if not path:
        return Policy()
    data = read_yaml(Path(path), "policy", PolicyError)
    try:
        policy = _policy({} if data is None else data)
        policy.check(policy.default_rule or engine_rule)
    except ConfigError as error:
        raise PolicyError(f"policy {path}: {error}") from error
    return policy


def _parts(rule: DeferralRule) -> Iterator[DeferralRule]:
    """The rule and every rule inside it."""
    yield rule
    for own in fields(rule):  # type: ignore[arg-type]
        yield from _inside(getattr(rule, own.name))


def _inside(value: object) -> Iterator[DeferralRule]:
    if isinstance(value, DeferralRule):
        yield from _parts(value)
    elif isinstance(value, Mapping):
        yield from _inside(tuple(value.items()))
    elif isinstance(value, (tuple, list, set, frozenset)):
        for element in value:
            yield from _inside(element)


def _check(name: str, value: object, values: Range) -> None:
    try:
        values.read(name, value)
    except ConfigError as error:
        raise ConfigError(name, value, f"{error.allowed} {_BY_POLICY}") from None


def _policy(data: object) -> Policy:
    known = [own.name for own in fields(Policy)]
    if not isinstance(data, Mapping):
        raise ConfigError("policy", data, f"a mapping with the keys {', '.join(known)}")
    for key, value in data.items():
        if key not in known:
            raise ConfigError(
                str(key), value, f"left out; the keys are {', '.join(known)}{did_you_mean(str(key), known)}"
            )
    lossy, rule = data.get("lossy", True), data.get("default_rule")
    if not isinstance(lossy, bool):
        raise ConfigError("lossy", lossy, "true or false")
    return Policy(
        rules=_rules(data["rules"]) if "rules" in data else None,
        lossy=lossy,
        default_rule=None if rule is None else parse_rule(rule),
        max_tokens=_count(data, "max_tokens", 1),
        max_draft_length=_count(data, "max_draft_length", 0),
        max_priority=_share(data, "max_priority"),
    )


def _count(data: Mapping[str, Any], name: str, least: int) -> int | None:
    value = data.get(name)
    return None if value is None else int(Number(least, math.inf, whole=True).read(name, value))


def _share(data: Mapping[str, Any], name: str) -> float | None:
    value = data.get(name)
    return None if value is None else float(Number(0, 1).read(name, value))


def _rules(data: object) -> dict[type[DeferralRule], dict[str, Range]]:
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(
            "rules", data, "a mapping of at least one rule's name to ranges of its parameters, or to nothing"
        )
    rules: dict[type[DeferralRule], dict[str, Range]] = {}
    for name, limits in data.items():
        kind = rule_class(str(name))
        if kind in rules:
            raise ConfigError(f"rules.{name}", limits, f"left out: it is another name of {kind.name}, given already")
        rules[kind] = _ranges(kind, limits)
    return rules


def _ranges(kind: type[DeferralRule], limits: object) -> dict[str, Range]:
    where = f"rules.{kind.name}"
    if limits is not None and not isinstance(limits, Mapping):
        raise ConfigError(where, limits, "empty, or a mapping of parameters to their ranges")
    own = {name: values for name, values in ranges(kind).items() if values is not None}
    narrowed: dict[str, Range] = {}
    for name, limit in (limits or {}).items():
        if name not in own:
            names = ", ".join(own) or "none"
            raise ConfigError(
                f"{where}.{name}", limit, f"left out; its parameters: {names}{did_you_mean(str(name), own)}"
            )
        narrowed[name] = _narrowed(f"{where}.{name}", limit, own[name])
    return narrowed


def _narrowed(where: str, limit: object, own: Range) -> Range:
    if isinstance(own, Choice):
        if not isinstance(limit, list) or not limit:
            raise ConfigError(where, limit, f"a list of some of {', '.join(own.words)}")
        return Choice(tuple(own.read(where, word) for word in limit))
    if not isinstance(limit, list) or len(limit) != 2:
        raise ConfigError(where, limit, "a list of the lowest and the highest value")
    bound = Number()
    low, high = (bound.read(where, value) for value in limit)
    if low > high:
        raise ConfigError(where, limit, "a list of the lowest and the highest value, in this order")
    if low > own.high or high < own.low:
        raise ConfigError(where, limit, f"a range that has {own}")
    return Number(low, high, whole=own.whole)
