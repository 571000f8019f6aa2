"""Contracts: the tables, and every shape of the fake against its own; the checker itself is in `test_inspection`."""

from __future__ import annotations

import functools
import importlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import yaml

from spec_cascade.engines.tensorrt_llm.contract import (
    DIRECTORY,
    Contract,
    ContractTableError,
    load_contract,
    load_contracts,
)
from spec_cascade.engines.tensorrt_llm.inspection import NotInstalledError, check_instance, inspect_installed
from spec_cascade.engines.tensorrt_llm.signatures import kind_of
from tests.trtllm_fake import Bench, FakeModel, installed
from tests.unit.trtllm.playing import playing

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

SHAPES = {"s1": "trtllm-1.2.0rc3-rc5", "s15": "trtllm-1.2.1", "s2": "trtllm-1.3.0rc2-rc3"}


def table_of(shape: str) -> Contract:
    """The table that a shape of the fake was written from."""
    return next(table for table in load_contracts() if table.name == SHAPES[shape])


# The tables.


def test_the_tables_are_the_three_spans_newest_first():
    assert [table.name for table in load_contracts()] == [SHAPES[shape] for shape in ("s2", "s15", "s1")]


@pytest.mark.parametrize(
    ("version", "shape"),
    [
        ("1.2.0rc3", "s1"),
        ("1.2.0rc5", "s1"),
        ("1.2.0rc8", "s15"),
        ("1.2.0rc8.post1", "s15"),
        ("1.2.0", "s15"),
        ("1.2.1", "s15"),
        ("1.2.1+cu130", "s15"),
        ("1.3.0rc2", "s2"),
        ("1.3.0rc3", "s2"),
        ("1.2.0rc2", None),
        ("1.2.10", None),
        ("1.3.0rc0", None),
        ("1.3.0", None),
    ],
)
def test_a_version_stands_for_one_table_or_for_none(version, shape):
    assert [t.name for t in load_contracts() if t.covers(version)] == ([SHAPES[shape]] if shape else [])


def written(directory: Path, name: str, **entries: Any) -> Path:
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return path


def test_a_table_states_differences_from_its_base(tmp_path):
    written(
        tmp_path,
        "base",
        modules={"m": "pack.m"},
        functions=[{"in": "m", "name": "f", "params": ["a"]}, {"in": "m", "name": "g", "params": ["b"]}],
        classes=[
            {
                "in": "m",
                "name": "C",
                "bases": ["B"],
                "methods": [{"name": "one", "params": []}, {"name": "two", "params": []}],
            }
        ],
    )
    path = written(
        tmp_path,
        "own",
        contract="own",
        base="base",
        versions=["1"],
        functions=[{"in": "m", "name": "g", "params": ["c"]}],
        classes=[{"in": "m", "name": "C", "bases": ["B", "D"], "methods": [{"name": "two", "params": ["x"]}]}],
    )
    table = load_contract(path)
    assert {f.name: f.params for f in table.functions} == {"f": ("a",), "g": ("c",)}
    (promise,) = table.classes
    assert promise.bases == ("B", "D")
    assert {m.name: m.params for m in promise.methods} == {"one": (), "two": ("x",)}


GOOD = {"contract": "own", "versions": ["1"], "modules": {"m": "pack.m"}}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"functions": [{"in": "m", "name": "f", "parms": []}]}, r"functions\.0\.parms"),
        ({"functions": [{"in": "m"}]}, r"functions\.0\.name"),
        ({"functions": [{"in": "n", "name": "f"}]}, "no module is called 'n': m are"),
        ({"functions": [{"in": "m", "name": "f", "same_as": "n.f"}]}, "no module is called 'n'"),
        ({"functions": [{"in": "m", "name": "f", "kw": ["a"]}]}, "kw is given without params"),
        ({"functions": [{"in": "m", "name": "f", "need": "may"}]}, r"functions\.0\.need.*'may'"),
        ({"functions": [{"in": "m", "name": "f"}, {"in": "m", "name": "f"}]}, r"functions: m\.f is there twice"),
        ({"classes": [{"in": "m", "name": "C", "methods": [{"name": "f", "kind": "function"}]}]}, r"methods\.0\.kind"),
        (
            {"classes": [{"in": "m", "name": "C", "methods": [{"name": "f"}, {"name": "f"}]}]},
            "methods: f is there twice",
        ),
        ({"base": "own"}, "the tables stand on each other: own.yaml"),
        ({"base": "nobody"}, "nobody.yaml: no such contract table"),
        ({"base": ["a"]}, "base: must be the name of a table"),
        ({"versions": None}, "versions"),
        ({"shape": "s1"}, "shape"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_name(tmp_path, entries, message):
    path = written(tmp_path, "own", **(GOOD | entries))
    with pytest.raises(ContractTableError, match=message) as caught:
        load_contract(path)
    assert str(tmp_path) in str(caught.value)


# The fake.


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_keeps_its_own_promises_and_breaks_those_of_the_others(shape):
    with installed(shape, threaded=False):
        inspection = inspect_installed()
    assert [report.contract.name for report in inspection.reports if report.holds] == [SHAPES[shape]]
    assert inspection.matched is not None
    assert inspection.matched.contract.name == SHAPES[shape]
    assert inspection.matched.broken == (), inspection.lines()
    assert inspection.remark is None


@pytest.mark.parametrize("shape", SHAPES)
def test_live_objects_have_what_is_read_of_them(shape):
    table = table_of(shape)
    with installed(shape, threaded=False):
        model = FakeModel(rows=lambda token_ids: torch.eye(8)[list(token_ids)], vocab_size=8)
        bench = Bench(model, model)
        request = bench.add([1, 2, 3], max_tokens=12)
        bench.step(2)
        live = {
            "TorchSampler": bench.sampler,
            "ModelDrafter": bench.executor.drafter,
            "LlmRequest": bench.request(request),
            "ScheduledRequests": importlib.import_module(table.modules["scheduler"]).ScheduledRequests(),
        }
        for name, instance in live.items():
            assert check_instance(table, name, instance) == (), name
        del bench.request(request).py_draft_logits
        (broken,) = check_instance(table, "LlmRequest", bench.request(request))
        assert broken.name.endswith("LlmRequest().py_draft_logits")


def test_without_tensorrt_llm_there_is_nothing_to_hold_them_against():
    with pytest.raises(NotInstalledError, match="not installed"):
        inspect_installed()


@pytest.mark.parametrize("shape", SHAPES)
def test_what_our_sampler_overrides_is_what_the_table_says_and_nothing_else(shape):
    table = table_of(shape)
    listed = {m.name: m for m in table.class_promise("TorchSampler").methods if m.use == "overridden"}
    with playing(shape):
        theirs = importlib.import_module(table.modules["sampler"]).TorchSampler
        ours = importlib.import_module("spec_cascade.engines.tensorrt_llm.sampler").CascadeSampler
        own = {name for name, held in vars(ours).items() if kind_of(held) is not None and hasattr(theirs, name)}
        assert own == listed.keys()
        for name, method in listed.items():
            parameters = inspect.signature(getattr(theirs, name)).parameters
            names = [*(() if method.kind == "staticmethod" else ("self",)), *method.params, *method.kw]
            assert list(parameters) == names
            # Ours takes them by place and by name, as TensorRT-LLM may give either.
            taken = inspect.signature(getattr(ours, name))
            keywords = dict.fromkeys(method.kw)
            taken.bind(*names[: len(names) - len(method.kw)], **keywords)
            taken.bind(*names[: -len(method.params) - len(method.kw)], **dict.fromkeys(method.params), **keywords)


def test_what_an_engine_directory_is_opened_with_is_promised():
    with installed("s15", threaded=False):
        arguments = importlib.import_module("tensorrt_llm.llmapi.llm_args")
        del arguments.update_llm_args_with_extra_dict
        del arguments.DraftTargetDecodingConfig.__private_attributes__["_allow_greedy_draft_tokens"]
        inspection = inspect_installed()
    assert {promise.name for promise in inspection.nearest.must} == {
        "tensorrt_llm.llmapi.llm_args.update_llm_args_with_extra_dict",
        "tensorrt_llm.llmapi.llm_args.DraftTargetDecodingConfig._allow_greedy_draft_tokens",
    }


def promises(table: Contract) -> dict[str, Callable[[dict[str, ModuleType]], str]]:
    """A change for everything that a table insists on, and what it is called; each returns the name it breaks."""
    changes: dict[str, Callable[[dict[str, ModuleType]], str]] = {}
    for function in table.functions:
        if function.need == "must":
            changes[f"{function.name} gone from {function.module}"] = functools.partial(
                _remove, function.module, function.name, table
            )
            if function.params:
                changes[f"{function.name} renamed a parameter"] = functools.partial(
                    _rename_parameter, function.module, None, function.name, table
                )
    for promise in table.classes:
        if promise.need != "must":
            continue
        changes[f"{promise.name} gone"] = functools.partial(_remove, promise.module, promise.name, table)
        for method in promise.methods:
            if method.need != "must":
                continue
            label = f"{promise.name}.{method.name}"
            changes[f"{label} gone"] = functools.partial(
                _remove_method, promise.module, promise.name, method.name, table
            )
            if method.params:
                changes[f"{label} renamed a parameter"] = functools.partial(
                    _rename_parameter, promise.module, promise.name, method.name, table
                )
            if method.kind == "method" and method.params is not None:
                changes[f"{label} changed its kind"] = functools.partial(
                    _change_kind, promise.module, promise.name, method.name, table
                )
    return changes


def _remove(alias: str, name: str, table: Contract, modules: dict[str, ModuleType]) -> str:
    delattr(modules[alias], name)
    return f"{table.modules[alias]}.{name}"


def _owner(alias: str, owner: str | None, name: str, modules: dict[str, ModuleType]) -> Any:
    """Whose dictionary holds it: the module, or the class among the ancestors."""
    if owner is None:
        return modules[alias]
    cls = getattr(modules[alias], owner)
    return next(base for base in cls.__mro__ if name in vars(base))


def _remove_method(alias: str, owner: str, name: str, table: Contract, modules: dict[str, ModuleType]) -> str:
    cls = getattr(modules[alias], owner)
    for base in cls.__mro__[:-1]:
        if name in vars(base):
            delattr(base, name)
    return f"{table.modules[alias]}.{owner}.{name}"


def _rename_parameter(alias: str, owner: str | None, name: str, table: Contract, modules: dict[str, ModuleType]) -> str:
    holder = _owner(alias, owner, name, modules)
    held = inspect.getattr_static(holder, name)
    function = inspect.unwrap(held.__func__ if isinstance(held, (classmethod, staticmethod)) else held)
    code = function.__code__
    at = code.co_argcount - 1  # the last one that can be given by position
    names = list(code.co_varnames)
    names[at] += "_renamed"
    function.__code__ = code.replace(co_varnames=tuple(names))
    return f"{table.modules[alias]}.{'' if owner is None else owner + '.'}{name}"


def _change_kind(alias: str, owner: str, name: str, table: Contract, modules: dict[str, ModuleType]) -> str:
    holder = _owner(alias, owner, name, modules)
    setattr(holder, name, staticmethod(vars(holder)[name]))
    return f"{table.modules[alias]}.{owner}.{name}"


CHANGES = [(shape, label) for shape in SHAPES for label in promises(table_of(shape))]


@pytest.mark.parametrize(("shape", "label"), CHANGES)
def test_a_promise_that_is_broken_is_refused_by_name(shape, label):
    table = table_of(shape)
    with installed(shape, threaded=False):
        modules = {alias: __import__(name, fromlist=["_"]) for alias, name in table.modules.items()}
        name = promises(table)[label](modules)
        inspection = inspect_installed()
    assert inspection.matched is None, label
    assert inspection.nearest.contract is table
    assert name in {promise.name for promise in inspection.nearest.must}
    assert name in inspection.refusal()


def test_the_changes_that_are_tried_cover_the_swap_itself():
    tried = {label for _, label in CHANGES}
    for label in (
        "instantiate_sampler gone from creator",
        "TorchSampler.process_draft_tokens renamed a parameter",
        "TorchSampler.update_requests gone",
        "TorchSampler.should_provide_draft_probs changed its kind",
        "LlmRequest.add_new_token gone",
    ):
        assert label in tried


def test_the_tables_are_shipped():
    assert {path.name for path in DIRECTORY.glob("*.yaml")} == {"common.yaml", "s1.yaml", "s15.yaml", "s2.yaml"}
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    assert '"spec_cascade.engines.tensorrt_llm" = ["contracts/*.yaml"]' in project
