"""What the Grafana dashboard asks of Prometheus."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DASHBOARD = Path(__file__).parents[1] / "docker" / "dashboards" / "spec-cascade.json"

TARGET_LABELS = frozenset({"instance", "job"})
"""Labels that Prometheus gives to whatever it scrapes."""

_GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^]]*\]")
# Without groupings and ranges, a name that is no function's is a series'.
_SERIES = re.compile(r"(?<![\w.])([a-zA-Z_:]\w*)\b(?!\s*\()(?:\s*\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_LEGEND = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_VARIABLE = re.compile(r"label_values\((\w+), (\w+)\)")


@dataclass(frozen=True, slots=True)
class Query:
    """One series that an expression reads.

    Attributes:
        name: Of the series.
        labels: That it must have: those that select it, group it, or stand in the legend, without `TARGET_LABELS`.
        values: Those that select a value of their own; variables of the dashboard are left out.
    """

    name: str
    labels: frozenset[str]
    values: dict[str, str] = field(hash=False)


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    read: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return read


def queried() -> list[Query]:
    """All series that the dashboard reads."""
    read = dashboard()
    targets = [target for panel in read["panels"] for target in panel["targets"]]
    variables = [v["query"]["query"] for v in read["templating"]["list"] if v["type"] == "query"]
    found = [query for target in targets for query in queries_of(target["expr"], target["legendFormat"])]
    for variable in variables:
        name, label = _VARIABLE.findall(variable)[0]
        found.append(Query(name, frozenset({label}), {}))
    return found


def queries_of(expression: str, legend: str = "") -> list[Query]:
    """The series in a PromQL expression."""
    shared = {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
    shared |= set(_LEGEND.findall(legend))
    found = []
    for name, braces in _SERIES.findall(_RANGE.sub("", _GROUPING.sub("", expression))):
        matchers = _MATCHER.findall(braces)
        labels = {label for label, _, _ in matchers} | shared
        values = {label: value for label, operator, value in matchers if operator == "=" and "$" not in value}
        found.append(Query(name, frozenset(labels - TARGET_LABELS), values))
    return found
