"""The checker on small modules of the test's own: what it sees, and what it says."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.engines.tensorrt_llm.contract import Contract
from spec_cascade.engines.tensorrt_llm.findings import ContractReport, Inspection
from spec_cascade.engines.tensorrt_llm.inspection import check, check_instance

if TYPE_CHECKING:
    from collections.abc import Callable

TABLE = {"contract": "test", "versions": ["1.*"], "modules": {"m": "pack.m"}}


def contract(**entries: Any) -> Contract:
    """A table about one module, called `m`."""
    return Contract.model_validate(TABLE | entries)


def module(**names: Any) -> ModuleType:
    made = ModuleType("pack.m")
    vars(made).update(names)
    return made


def broken(table: Contract, held: ModuleType | str) -> list[str]:
    return [str(promise) for promise in check(table, {"m": held})]


def plain(request, tokens, *, step=0): ...


@functools.wraps(plain)
def seen_through(*args, **kwargs):
    return plain(*args, **kwargs)


def hidden(*args, **kwargs):
    return plain(*args, **kwargs)


def optional(request, tokens, more=None, *, step=0, less=None): ...


def widened(request, tokens, step=0): ...


def demanding(request, tokens, more, *, step=0): ...


def renamed(request, token, *, step=0): ...


def swapped(tokens, request, *, step=0): ...


def unkeyed(request, tokens): ...


@pytest.mark.parametrize(
    ("function", "called", "overridden"),
    [
        (plain, True, True),
        (seen_through, True, True),
        (optional, True, False),
        (widened, True, False),
        (demanding, False, False),
        (renamed, False, False),
        (swapped, False, False),
        (unkeyed, False, False),
        (hidden, False, False),
    ],
)
def test_parameters_are_what_a_call_or_an_override_needs(function, called, overridden):
    for use, holds in (("called", called), ("overridden", overridden)):
        entry = {"in": "m", "name": "f", "use": use, "params": ["request", "tokens"], "kw": ["step"]}
        assert (broken(contract(functions=[entry]), module(f=function)) == []) is holds


def test_a_broken_signature_says_what_was_expected_and_what_is_there():
    entry = {"in": "m", "name": "f", "params": ["request", "tokens"], "kw": ["step"]}
    table = contract(functions=[entry])
    assert broken(table, module(f=renamed)) == [
        "pack.m.f: expected (request, tokens, *, step), found (request, token, *, step=…)"
    ]
    assert broken(table, module(f=hidden)) == [
        "pack.m.f: expected (request, tokens, *, step), found (*args, **kwargs): what it wraps cannot be seen"
    ]
    assert broken(table, module(f=dict.fromkeys)) != [], "compiled, with another signature"
    assert broken(table, module(f=3)) == ["pack.m.f: expected a callable, found 3"]
    assert broken(table, module()) == ["pack.m.f: expected a function, found nothing of that name"]


def test_a_subset_of_parameters_may_stand_anywhere():
    table = contract(functions=[{"in": "m", "name": "f", "subset": ["step", "tokens"]}])
    assert broken(table, module(f=optional)) == []
    assert broken(table, module(f=renamed)) == [
        "pack.m.f: expected parameters step, tokens, found (request, token, *, step=…)"
    ]


def test_a_name_that_we_replace_has_to_be_looked_up():
    source = {
        "global": "def f():\n    return helper()",
        "inside": "def f():\n    return [helper() for _ in range(3)]",
        "attribute": "def f(self):\n    return self.helper()",
        "local": "def f():\n    helper = len\n    return helper('')",
    }
    table = contract(functions=[{"in": "m", "name": "f", "calls": ["helper"]}])
    for case, text in source.items():
        names: dict[str, Any] = {}
        exec(text, names)
        expected = ["pack.m.f: expected code that looks up helper, found code that does not"] if case == "local" else []
        assert broken(table, module(f=names["f"])) == expected, case


class Base:
    """An ancestor."""


@dataclass
class Fielded:
    """A dataclass."""

    one: int
    two: int = 0


class Colour(Enum):
    """An enumeration."""

    RED = 1


class Owner(Base):
    """A class of everything that a promise speaks of."""

    RED = 1

    @dataclass
    class Inner:
        """A nested one."""

        left: int

    def __init__(self, first, second=None):
        self.first = first

    def method(self, a): ...
    @classmethod
    def of(cls, a): ...
    @staticmethod
    def free(a): ...
    @property
    def shade(self): ...


def test_a_class_is_what_its_promise_says():
    methods = [
        {"name": "method", "params": ["a"]},
        {"name": "of", "kind": "classmethod", "params": ["a"]},
        {"name": "free", "kind": "staticmethod", "params": ["a"]},
        {"name": "shade", "kind": "property"},
    ]
    entry = {
        "in": "m",
        "name": "Owner",
        "bases": ["Base"],
        "nested": {"Inner": ["left"]},
        "members": ["RED"],
        "methods": methods,
    }
    table = contract(classes=[entry, {"in": "m", "name": "Fielded", "fields": {"must": ["one", "two"]}}])
    assert broken(table, module(Owner=Owner, Fielded=Fielded)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bases": ["Other"]}, "pack.m.Owner: expected a subclass of Other, found one of Base, object"),
        (
            {"methods": [{"name": "__init__", "params": ["first", "third"]}]},
            "pack.m.Owner.__init__: expected (first, third), found (first, second=…)",
        ),
        ({"nested": {"Inner": ["right"]}}, "pack.m.Owner.Inner.right: expected a field, found fields left"),
        ({"nested": {"Outer": []}}, "pack.m.Owner.Outer: expected a nested class, found nothing of that name"),
        ({"members": ["BLUE"]}, "pack.m.Owner.BLUE: expected a member, found nothing of that name"),
        ({"fields": {"must": ["one"]}}, "pack.m.Owner.one: expected a field, found no fields"),
        ({"methods": [{"name": "gone"}]}, "pack.m.Owner.gone: expected a method, found nothing of that name"),
        (
            {"methods": [{"name": "method", "kind": "classmethod"}]},
            "pack.m.Owner.method: expected a classmethod, found a method",
        ),
        (
            {"methods": [{"name": "free", "params": ["a"]}]},
            "pack.m.Owner.free: expected a method, found a staticmethod",
        ),
        (
            {"methods": [{"name": "of", "kind": "property"}]},
            "pack.m.Owner.of: expected a property, found a classmethod",
        ),
        (
            {"methods": [{"name": "method", "params": ["b"]}]},
            "pack.m.Owner.method: expected (b), found (a)",
        ),
    ],
)
def test_what_differs_in_a_class_is_named(change, said):
    assert broken(contract(classes=[{"in": "m", "name": "Owner", **change}]), module(Owner=Owner)) == [said]


def test_compiled_classes_are_asked_for_names_alone():
    table = contract(classes=[{"in": "m", "name": "C", "methods": [{"name": "append"}, {"name": "sort"}]}])
    assert broken(table, module(C=list)) == []
    assert broken(table, module(C=tuple)) == [
        "pack.m.C.append: expected a method, found nothing of that name",
        "pack.m.C.sort: expected a method, found nothing of that name",
    ]


def test_an_enumeration_has_its_members():
    table = contract(classes=[{"in": "m", "name": "Colour", "members": ["RED", "BLUE"]}])
    assert broken(table, module(Colour=Colour)) == ["pack.m.Colour.BLUE: expected a member, found nothing of that name"]


def test_constants_and_absences():
    table = contract(
        constants=[{"in": "m", "name": "INDEX", "value": 0}], absent=[{"in": "m", "name": "Later", "need": "must"}]
    )
    assert broken(table, module(INDEX=0)) == []
    assert broken(table, module(INDEX=1, Later=Base)) == [
        "pack.m.INDEX: expected 0, found 1",
        "pack.m.Later: expected nothing of that name, found one",
    ]


def test_two_names_of_one_function():
    table = Contract.model_validate(
        {
            **TABLE,
            "modules": {"m": "pack.m", "n": "pack.n"},
            "functions": [{"in": "m", "name": "f", "same_as": "n.f"}],
        }
    )
    assert check(table, {"m": module(f=plain), "n": module(f=plain)}) == ()
    # Whoever stands in its place with `functools.wraps` is taken for what it wraps.
    assert check(table, {"m": module(f=seen_through), "n": module(f=plain)}) == ()
    (promise,) = check(table, {"m": module(f=hidden), "n": module(f=plain)})
    assert (promise.name, promise.expected) == ("pack.m.f", "the same as pack.n.f")


def test_a_module_that_cannot_be_imported_is_one_broken_promise():
    table = contract(
        functions=[{"in": "m", "name": "f"}],
        classes=[{"in": "m", "name": "C"}],
        probes=[{"name": "stop_criteria", "value": True}],
    )
    assert broken(table, "ImportError: no libcuda") == ["pack.m: expected a module, found ImportError: no libcuda"]


def test_what_is_only_wished_for_warns_and_says_what_is_lost():
    entry = {"in": "m", "name": "f", "need": "should", "without": "the fast path"}
    table = contract(functions=[entry], classes=[{"in": "m", "name": "Fielded", "fields": {"should": ["three"]}}])
    report = ContractReport(table, check(table, {"m": module(Fielded=Fielded)}))
    assert report.holds
    assert report.must == ()
    assert report.lines() == [
        "test: holds, 2 warnings",
        "  warning: pack.m.f: expected a function, found nothing of that name (lost: the fast path)",
        "  warning: pack.m.Fielded.three: expected a field, found fields one, two",
    ]


def test_attributes_are_looked_for_on_live_objects():
    table = contract(
        classes=[{"in": "m", "name": "Owner", "attributes": {"must": ["first", "second"], "should": ["third"]}}]
    )
    found = check_instance(table, "Owner", Owner(1))
    assert [(promise.name, promise.need) for promise in found] == [
        ("pack.m.Owner().second", "must"),
        ("pack.m.Owner().third", "should"),
    ]
    assert check_instance(table, "Owner", SimpleNamespace(first=1, second=2, third=3)) == ()


# Which of them.


def reports(**broken_by: Callable[..., Any] | None) -> tuple[ContractReport, ...]:
    """One table per version, each about the function `f`; the function that each finds."""
    made = []
    for version, function in broken_by.items():
        entry = {"in": "m", "name": "f", "params": ["request", "tokens"], "kw": ["step"]}
        table = Contract.model_validate(
            {**TABLE, "contract": version, "versions": [version], "functions": [entry, entry | {"name": "g"}]}
        )
        made.append(ContractReport(table, check(table, {"m": module(f=function, g=plain)})))
    return tuple(made)


def test_the_shape_decides_and_a_version_that_says_otherwise_is_reported():
    inspection = Inspection("new", reports(old=plain, new=renamed))
    assert inspection.matched is inspection.reports[0]
    assert inspection.by_version is inspection.reports[1].contract
    assert inspection.remark == "version new stands for new; its shape is that of old, which is what counts"
    unknown = Inspection("other", reports(old=plain))
    assert unknown.remark == "version other is in no contract; its shape is that of old, which is what counts"
    assert Inspection("old", reports(old=plain, new=renamed)).remark is None


def test_where_none_holds_the_nearest_one_says_why():
    inspection = Inspection("new", reports(old=None, new=renamed))
    assert inspection.matched is None
    assert inspection.nearest.contract.name == "new", "equally broken, and its version's"
    assert inspection.refusal() == (
        "TensorRT-LLM new is of no shape that this plugin knows; nearest is new, broken in 1:\n"
        "  pack.m.f: expected (request, tokens, *, step), found (request, token, *, step=…)"
    )
    assert json.loads(json.dumps(inspection.as_dict()))["contracts"][1]["broken"][0]["name"] == "pack.m.f"
