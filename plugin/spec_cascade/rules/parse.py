"""Rules from text, from a mapping (YAML, JSON), or from a rule.

The text form is ``name``, ``name:key=value,key=value`` or ``name(rule, rule)``, nested at will::

    token_v3:alpha=0.8
    token_v3:alpha=0.8,strict_prefix_tokens=0
    all_of(chow:alpha=0.3, divergence:alpha=0.2,kind=js):strict_prefix_tokens=8
    schedule(0=strict, 16=token_v3:alpha=0.5)
    my_package.rules:MyRule:alpha=0.3

The mapping form has the same keys: ``{name: token_v3, alpha: 0.8}``, ``{name: all_of, rules: [...]}``,
``{name: phase, rule: ..., start: 7, end: 8}``, ``{name: schedule, stages: {0: strict, 16: ...}}``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from spec_cascade.errors import ConfigError, did_you_mean
from spec_cascade.rules.base import DeferralRule
from spec_cascade.rules.compose import Combination
from spec_cascade.rules.guards import Schedule, StrictPrefix
from spec_cascade.rules.parameters import ranges
from spec_cascade.rules.registry import FIELD, rule_class

PREFIX = "strict_prefix_tokens"
_MAX_LENGTH = 4096
_MAX_DEPTH = 8
_HEAD = re.compile(r"\s*([A-Za-z_][\w.]*(?::[A-Za-z_][\w.]*(?!\s*=|[\w.]))?)\s*")
_PARAMETER = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)", re.DOTALL)
_STAGE = re.compile(r"\s*(\d+)\s*=(.*)", re.DOTALL)
_MEMBER_KEYS = {"rules", "rule", "stages"}


@dataclass
class _Node:
    """A rule as written: its name, the rules inside it with their stage keys, its parameters."""

    name: str
    members: list[tuple[int | None, _Node]] = field(default_factory=list)
    parameters: dict[str, object] = field(default_factory=dict)


def parse_rule(spec: str | Mapping[str, Any] | DeferralRule, *, allow_import: bool = True) -> DeferralRule:
    """Make a rule.

    Args:
        spec: Text or mapping as described in the module, or a rule, which is returned as it is.
        allow_import: Whether ``package.module:Class`` may name a rule. Pass False for text that came from a client:
            naming a module imports it.

    Raises:
        ConfigError: Unknown rule or parameter, value out of range, or malformed text; it names the rule, the field and
            what is allowed.
    """
    if isinstance(spec, DeferralRule):
        return spec
    if isinstance(spec, str):
        if len(spec) > _MAX_LENGTH:
            raise ConfigError(FIELD, spec, f"at most {_MAX_LENGTH} characters")
        node = _from_text(spec, 0)
    else:
        node = _from_mapping(spec, 0)
    return _build(node, allow_import)


def _from_text(text: str, depth: int) -> _Node:
    head = _HEAD.match(text)
    if head is None or depth > _MAX_DEPTH:
        raise _malformed(text)
    node, rest = _Node(head[1]), text[head.end() :]
    if rest.startswith("("):
        inside, rest = _parenthesised(rest, text)
        node.members = [_member(part, depth) for part in _split_rules(inside)]
        rest = rest.strip()
    if rest:
        if not rest.startswith(":"):
            raise _malformed(text)
        for part in rest[1:].split(","):
            match = _PARAMETER.fullmatch(part)
            if match is None:
                raise _malformed(text)
            if match[1] in node.parameters:
                raise ConfigError(f"{node.name}.{match[1]}", match[2].strip(), "given once")
            node.parameters[match[1]] = match[2].strip()
    return node


def _member(part: str, depth: int) -> tuple[int | None, _Node]:
    stage = _STAGE.fullmatch(part)
    return (int(stage[1]), _from_text(stage[2], depth + 1)) if stage else (None, _from_text(part, depth + 1))


def _parenthesised(rest: str, text: str) -> tuple[str, str]:
    """What stands in the parentheses that ``rest`` opens with, and what follows them."""
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return rest[1:i], rest[i + 1 :]
    raise _malformed(text)


def _split_rules(inside: str) -> list[str]:
    """Split at the commas between rules; a comma before ``key=value`` goes on with the rule before it."""
    parts, depth = [""], 0
    for character in inside:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    rules: list[str] = []
    for part in parts:
        if rules and _PARAMETER.fullmatch(part):
            rules[-1] += f",{part}"
        else:
            rules.append(part)
    return rules


def _from_mapping(spec: object, depth: int) -> _Node:
    if isinstance(spec, str):
        return _from_text(spec, depth)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str) or depth > _MAX_DEPTH:
        raise ConfigError(FIELD, spec, "a rule's text, or a mapping with its name and parameters")
    head = _from_text(spec["name"], depth)
    if head.members or head.parameters:
        raise ConfigError(f"{FIELD}.name", spec["name"], "a bare name where parameters are given as keys")
    members = {key: value for key, value in spec.items() if key in _MEMBER_KEYS}
    head.parameters = {str(key): value for key, value in spec.items() if key != "name" and key not in _MEMBER_KEYS}
    for key, value in members.items():
        head.members += _members(f"{head.name}.{key}", key, value, depth)
    return head


def _members(where: str, key: str, value: object, depth: int) -> list[tuple[int | None, _Node]]:
    if key == "rule":
        return [(None, _from_mapping(value, depth + 1))]
    if key == "rules":
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(where, value, "a list of rules")
        return [(None, _from_mapping(rule, depth + 1)) for rule in value]
    if not isinstance(value, Mapping) or not all(str(start).isdecimal() for start in value):
        raise ConfigError(where, value, "a mapping of positions to rules")
    return [(int(start), _from_mapping(rule, depth + 1)) for start, rule in value.items()]


def _build(node: _Node, allow_import: bool) -> DeferralRule:
    kind = rule_class(node.name, allow_import=allow_import)
    parameters = dict(node.parameters)
    prefix = parameters.pop(PREFIX, None) if kind is not StrictPrefix else None
    members = [(stage, _build(member, allow_import)) for stage, member in node.members]
    rule = _make(kind, node.name, members, parameters)
    # The field is checked by the guard itself, whatever its type here.
    return rule if prefix is None else StrictPrefix(rule, prefix)  # type: ignore[arg-type]


def _make(
    kind: type[DeferralRule],
    name: str,
    members: list[tuple[int | None, DeferralRule]],
    parameters: dict[str, object],
) -> DeferralRule:
    staged = [stage for stage, _ in members if stage is not None]
    if (len(staged) != len(members)) if kind is Schedule else bool(staged):
        raise ConfigError(name, staged, "written schedule(0=RULE, 16=RULE), and only a schedule has positions")
    if issubclass(kind, Schedule):
        _known(name, kind, parameters, ())
        if len(set(staged)) < len(staged):
            raise ConfigError(name, staged, "positions that differ")
        return kind.of({stage: rule for stage, rule in members if stage is not None})
    if issubclass(kind, Combination):
        _known(name, kind, parameters, ())
        # The class itself refuses members that are no keep rules.
        return kind(tuple(rule for _, rule in members))  # type: ignore[misc]
    takes_rule = any(f.name == "rule" for f in fields(kind))  # type: ignore[arg-type]
    if len(members) != int(takes_rule):
        raise ConfigError(
            name, f"{len(members)} rules", "given one rule in parentheses" if takes_rule else "without parentheses"
        )
    _known(name, kind, parameters, tuple(p for p in ranges(kind) if p != "rule"))
    return kind(*(rule for _, rule in members), **parameters)


def _known(name: str, kind: type[DeferralRule], given: Mapping[str, object], known: tuple[str, ...]) -> None:
    """Refuse unknown parameters, and missing ones that have no default."""
    for parameter, value in given.items():
        if parameter not in known:
            options = (*known, PREFIX)
            raise ConfigError(
                f"{name}.{parameter}",
                value,
                f"one of the parameters {', '.join(options)}{did_you_mean(parameter, options)}",
            )
    allowed = ranges(kind)
    for f in fields(kind):  # type: ignore[arg-type]
        if f.name in known and f.name not in given and f.default is f.default_factory:
            raise ConfigError(f"{name}.{f.name}", None, f"given: {allowed[f.name]}")


def _malformed(text: str) -> ConfigError:
    return ConfigError(FIELD, text, "NAME, NAME:KEY=VALUE,KEY=VALUE or NAME(RULE, RULE), with balanced parentheses")
