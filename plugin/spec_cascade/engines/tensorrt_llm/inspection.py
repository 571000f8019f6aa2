"""Holds contracts against the installed package, with `inspect` alone: nothing of it is called but by the probes.

Decorated callables are unwrapped. One whose signature cannot be seen breaks its promise: it may be what it was, but
nobody can tell.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.tensorrt_llm.contract import load_contracts
from spec_cascade.engines.tensorrt_llm.findings import BrokenPromise, ContractReport, Inspection
from spec_cascade.engines.tensorrt_llm.probes import PROBES
from spec_cascade.engines.tensorrt_llm.signatures import (
    expected_text,
    field_names,
    kind_of,
    looks_up,
    signature_fault,
)
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade.engines.tensorrt_llm.contract import (
        ClassPromise,
        Contract,
        FunctionPromise,
        MethodPromise,
        Need,
        Promise,
        Signature,
    )

_MISSING = object()
_NOTHING = "nothing of that name"


class NotInstalledError(EngineError):
    """There is no TensorRT-LLM in this environment."""


def inspect_installed(contracts: tuple[Contract, ...] | None = None) -> Inspection:
    """Import what the contracts name, and hold each of them against it.

    Raises:
        NotInstalledError: There is no TensorRT-LLM.
        EngineError: It cannot be imported at all.
    """
    package = import_package()
    tables = load_contracts() if contracts is None else contracts
    reports = tuple(ContractReport(table, check(table, modules_of(table))) for table in tables)
    return Inspection(version_of(package), reports)


def import_package() -> ModuleType:
    """Import TensorRT-LLM.

    Raises:
        NotInstalledError: It is not there.
        EngineError: It is, and cannot be imported.
    """
    try:
        return import_module("tensorrt_llm")
    except Exception as error:  # it loads libraries of the GPU, which fail in ways of their own
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorrt_llm":
            raise NotInstalledError("TensorRT-LLM is not installed in this environment") from None
        raise EngineError(f"TensorRT-LLM cannot be imported: {type(error).__name__}: {error}") from error


def version_of(package: ModuleType) -> str | None:
    """What the package says of itself, or what its distribution does."""
    said = getattr(package, "__version__", None)
    if isinstance(said, str):
        return said
    try:
        return version("tensorrt_llm")
    except PackageNotFoundError:
        return None


def modules_of(contract: Contract) -> dict[str, ModuleType | str]:
    """The modules that a contract names, by their aliases; why not, in the place of one that cannot be imported."""
    return {alias: _imported(name) for alias, name in contract.modules.items()}


def _imported(name: str) -> ModuleType | str:
    try:
        return import_module(name)
    except Exception as error:  # whatever a stranger's module does when it is imported
        return f"{type(error).__name__}: {error}"


def check(contract: Contract, modules: Mapping[str, ModuleType | str]) -> tuple[BrokenPromise, ...]:
    """The promises of a contract that do not hold, in the order of the table.

    Args:
        contract: The table.
        modules: By alias; a text in the place of one says why it cannot be imported.
    """
    checker = _Checker(contract, modules)
    checker.run()
    return tuple(checker.broken)


def check_instance(contract: Contract, class_name: str, instance: object) -> tuple[BrokenPromise, ...]:
    """The promises about attributes that a live object breaks.

    Args:
        contract: The table.
        class_name: Whose promise; the object may be of a subclass.
        instance: Such as the sampler when it is swapped, or a request.
    """
    promise = contract.class_promise(class_name)
    where = f"{contract.modules[promise.module]}.{class_name}()"
    wanted: list[tuple[str, Need]] = [(name, "must") for name in promise.attributes.must]
    wanted += [(name, "should") for name in promise.attributes.should]
    return tuple(
        BrokenPromise(name=f"{where}.{name}", expected="an attribute", found=_NOTHING, need=need)
        for name, need in wanted
        # Some properties raise in some states of a request; that they are there is all that is asked.
        if inspect.getattr_static(instance, name, _MISSING) is _MISSING
    )


class _Checker:
    """One pass over a table."""

    def __init__(self, contract: Contract, modules: Mapping[str, ModuleType | str]) -> None:
        self.contract = contract
        self.modules = modules
        self.broken: list[BrokenPromise] = []

    def run(self) -> None:
        for alias, module in self.modules.items():
            if isinstance(module, str):
                self._break(self.contract.modules[alias], "a module", module)
        for function in self.contract.functions:
            self._function(function)
        for promise in self.contract.classes:
            found = self._lookup(promise.module, promise.name, "a class", promise)
            if isinstance(found, type):
                self._class(promise, found)
            elif found is not _MISSING:
                self._break(self._where(promise.module, promise.name), "a class", repr(found), promise)
        for constant in self.contract.constants:
            found = self._lookup(constant.module, constant.name, repr(constant.value), constant)
            if found is not _MISSING and found != constant.value:
                self._break(self._where(constant.module, constant.name), repr(constant.value), repr(found), constant)
        for absence in self.contract.absent:
            if hasattr(self.modules[absence.module], absence.name):
                self._break(self._where(absence.module, absence.name), _NOTHING, "one", absence)
        self._probes()

    def _function(self, promise: FunctionPromise) -> None:
        found = self._lookup(promise.module, promise.name, "a function", promise)
        if found is _MISSING:
            return
        where = self._where(promise.module, promise.name)
        self._callable(where, found, promise, promise, bound=False)
        if promise.same_as is not None:
            alias, _, name = promise.same_as.partition(".")
            other = self._lookup(alias, name, "a function", promise)
            # We may stand in the place of the one already; then we are what we wrap.
            if other is not _MISSING and inspect.unwrap(found) is not inspect.unwrap(other):
                self._break(where, f"the same as {self._where(alias, name)}", repr(found), promise)

    def _class(self, promise: ClassPromise, found: type) -> None:
        where = self._where(promise.module, promise.name)
        ancestors = [base.__name__ for base in found.__mro__[1:]]
        for base in promise.bases:
            if base not in ancestors:
                self._break(where, f"a subclass of {base}", f"one of {', '.join(ancestors)}", promise)
        for name, fields in promise.nested.items():
            nested = getattr(found, name, None)
            if isinstance(nested, type):
                self._fields(f"{where}.{name}", nested, fields, promise)
            else:
                self._break(f"{where}.{name}", "a nested class", _NOTHING, promise)
        self._fields(where, found, promise.fields.must, promise)
        self._fields(where, found, promise.fields.should, promise, need="should")
        for member in promise.members:
            if not hasattr(found, member):
                self._break(f"{where}.{member}", "a member", _NOTHING, promise)
        for method in promise.methods:
            self._method(f"{where}.{method.name}", found, method)

    def _method(self, where: str, owner: type, promise: MethodPromise) -> None:
        held = inspect.getattr_static(owner, promise.name, _MISSING)
        if held is _MISSING:
            self._break(where, f"a {promise.kind}", _NOTHING, promise)
            return
        kind = kind_of(held)
        # What is compiled does not say its kind.
        if kind is not None and kind != promise.kind:
            self._break(where, f"a {promise.kind}", f"a {kind}", promise)
        elif promise.kind != "property":
            inner = held.__func__ if isinstance(held, (classmethod, staticmethod)) else held
            self._callable(where, inner, promise, promise, bound=promise.kind != "staticmethod")

    def _fields(
        self, where: str, owner: type, names: tuple[str, ...], promise: Promise, need: Need | None = None
    ) -> None:
        present = field_names(owner)
        for name in names:
            if name not in present:
                listed = f"fields {', '.join(present)}" if present else "no fields"
                self._break(f"{where}.{name}", "a field", listed, promise, need)

    def _callable(self, where: str, found: Any, expected: Signature, promise: Promise, *, bound: bool) -> None:
        if not callable(found):
            self._break(where, "a callable", repr(found), promise)
            return
        if expected.params is not None or expected.subset:
            fault = signature_fault(found, expected, bound=bound)
            if fault is not None:
                self._break(where, expected_text(expected), fault, promise)
        for name in expected.calls:
            if not looks_up(found, name):
                self._break(where, f"code that looks up {name}", "code that does not", promise)

    def _probes(self) -> None:
        if any(isinstance(module, str) for module in self.modules.values()):
            return
        for promise in self.contract.probes:
            found = _tried(promise.name, self.modules)
            if found != promise.value:
                self._break(f"probe {promise.name}", repr(promise.value), repr(found), promise)

    def _lookup(self, alias: str, name: str, what: str, promise: Promise) -> Any:
        module = self.modules[alias]
        if isinstance(module, str):  # which has been said
            return _MISSING
        found = getattr(module, name, _MISSING)
        if found is _MISSING:
            self._break(self._where(alias, name), what, _NOTHING, promise)
        return found

    def _where(self, alias: str, name: str) -> str:
        return f"{self.contract.modules[alias]}.{name}"

    def _break(
        self, name: str, expected: str, found: str, promise: Promise | None = None, need: Need | None = None
    ) -> None:
        optional = need == "should" or (promise is not None and promise.need == "should")
        without = None if promise is None else promise.without
        self.broken.append(
            BrokenPromise(
                name=name, expected=expected, found=found, need="should" if optional else "must", without=without
            )
        )


def _tried(probe: str, modules: Mapping[str, ModuleType | str]) -> object:
    try:
        return PROBES[probe](modules)
    except Exception as error:  # it runs a stranger's code, on inputs of ours
        return f"{type(error).__name__}: {error}"
