"""What we rely on in TensorRT-LLM, as tables: one file in ``contracts/`` for each span of versions.

A table names modules, functions, classes, constants, configuration, and says of each promise whether activation fails
without it (``must``) or a warning tells what is lost (``should``). It may stand on another table, its ``base``:
mappings are then merged key by key, and lists of named entries entry by entry, so that it states differences alone.
`inspection` holds the installed package against them.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spec_cascade.errors import EngineError
from spec_cascade.yaml_file import read_yaml

DIRECTORY = Path(__file__).parent / "contracts"
Need = Literal["must", "should"]


class ContractTableError(EngineError):
    """A contract table is not one: an unknown key, a missing one, a name that nothing bears."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Promise(_Entry):
    """What all promises have.

    Attributes:
        need: ``must``: nothing is activated without it; ``should``: a warning.
        without: What is lost without it.
    """

    need: Need = "must"
    without: str | None = None


class Located(Promise):
    """A promise about a name in a module."""

    module: str = Field(alias="in")
    name: str


class Signature(_Entry):
    """Parameters of a callable, without ``self`` or ``cls``.

    Attributes:
        use: ``called``: by us, with these, so that more are harmless where they have defaults. ``overridden``: by our
            class, so that TensorRT-LLM passes what it has: exactly these.
        params: Positional ones, in order; None where they are not looked at, as of compiled classes.
        kw: Keyword-only ones, in any order.
        subset: Names that have to be among the parameters, whatever else and in whichever order.
        calls: Names that its code looks up: what we replace has to be what it uses.
    """

    use: Literal["called", "overridden"] = "called"
    params: tuple[str, ...] | None = None
    kw: tuple[str, ...] = ()
    subset: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _kw_has_params(self) -> Signature:
        if self.kw and self.params is None:
            raise ValueError("kw is given without params")
        return self


class FunctionPromise(Located, Signature):
    """A module's function; ``same_as: alias.name`` says that two modules hold one and the same."""

    same_as: str | None = None


class MethodPromise(Promise, Signature):
    """A class's method, of its own or inherited."""

    name: str
    kind: Literal["method", "classmethod", "staticmethod", "property"] = "method"


class Names(_Entry):
    """Names by how much they are needed."""

    must: tuple[str, ...] = ()
    should: tuple[str, ...] = ()


class ClassPromise(Located):
    """A class.

    Attributes:
        bases: Names of classes among its ancestors.
        nested: Nested dataclasses, and fields that they have.
        fields: Of a dataclass or a pydantic model.
        members: Class attributes, such as an enumeration's members.
        methods: By name.
        attributes: Of its instances; seen on live ones only, see `inspection.check_instance`.
    """

    bases: tuple[str, ...] = ()
    nested: dict[str, tuple[str, ...]] = {}
    fields: Names = Names()
    members: tuple[str, ...] = ()
    methods: tuple[MethodPromise, ...] = ()
    attributes: Names = Names()


class ConstantPromise(Located):
    """A module's constant."""

    value: Any


class Absence(Located):
    """A module's name that must not be there: a mark of another span of versions."""


class Requirement(_Entry):
    """What the configuration of an engine has to say.

    Attributes:
        name: As its user knows it.
        path: Where `instantiate_sampler` is told: a parameter's name and attributes, joined by dots; a method at the
            end is called. ``settings`` and ``mapping`` are the second and third parameter, whatever their names.
        one_of: Values that are allowed; an enumeration's member counts as its value.
        optional: Where this version has no such field, it counts as None.
        reason: Why no other value is.
    """

    name: str
    path: str
    one_of: tuple[Any, ...]
    optional: bool = False
    reason: str


class EnvironmentRule(_Entry):
    """A variable that must be unset, empty or one of a few values."""

    name: str
    one_of: tuple[str, ...] = ()
    reason: str


class ProbePromise(Promise):
    """What a probe of `probes` should find."""

    name: str
    value: str | int | bool


class Contract(_Entry):
    """One table.

    Attributes:
        name: Under which it is reported.
        versions: Versions that it was written from, as patterns; the shape decides, see `inspection.Inspection`.
        modules: Alias -> module.
        probes: What its code should do, tried on small inputs.
    """

    name: str = Field(alias="contract")
    versions: tuple[str, ...]
    modules: dict[str, str]
    functions: tuple[FunctionPromise, ...] = ()
    classes: tuple[ClassPromise, ...] = ()
    constants: tuple[ConstantPromise, ...] = ()
    absent: tuple[Absence, ...] = ()
    config: tuple[Requirement, ...] = ()
    environment: tuple[EnvironmentRule, ...] = ()
    probes: tuple[ProbePromise, ...] = ()

    @model_validator(mode="after")
    def _aliases_are_known(self) -> Contract:
        entries: tuple[Located, ...] = (*self.functions, *self.classes, *self.constants, *self.absent)
        used = [entry.module for entry in entries]
        used += [f.same_as.partition(".")[0] for f in self.functions if f.same_as is not None]
        for alias in used:
            if alias not in self.modules:
                raise ValueError(f"no module is called {alias!r}: {', '.join(self.modules)} are")
        return self

    def covers(self, version: str) -> bool:
        """Whether the table was written from this version; what follows a ``+`` does not count."""
        return any(fnmatchcase(version.partition("+")[0], pattern) for pattern in self.versions)

    def class_promise(self, name: str) -> ClassPromise:
        """The promise about a class.

        Raises:
            KeyError: There is none.
        """
        return {promise.name: promise for promise in self.classes}[name]


@cache
def load_contracts() -> tuple[Contract, ...]:
    """All tables that are complete, newest versions first.

    Raises:
        ContractTableError: One of them is not right; it is named, and what is wrong with it.
    """
    tables = [path for path in sorted(DIRECTORY.glob("*.yaml")) if "contract" in _read(path)]
    return tuple(sorted(map(load_contract, tables), key=lambda contract: contract.versions, reverse=True))


def load_contract(path: Path) -> Contract:
    """Read one table and what it stands on.

    Raises:
        ContractTableError: It is not right.
    """
    data = _with_base(path, ())
    try:
        return Contract.model_validate(data)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        where = ".".join(str(step) for step in detail["loc"]) or "the table"
        raise ContractTableError(f"{path}: {where}: {detail['msg']} (found {detail['input']!r:.80})") from None


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    if path in above:
        raise ContractTableError(f"{path}: base: the tables stand on each other: {' -> '.join(p.name for p in above)}")
    data = _read(path)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ContractTableError(f"{path}: base: must be the name of a table in this directory (found {base!r})")
    merged: dict[str, Any] = _merged(_with_base(path.parent / f"{base}.yaml", (*above, path)), data)
    return merged


def _read(path: Path) -> dict[str, Any]:
    data = read_yaml(path, "contract table", ContractTableError)
    if not isinstance(data, dict):
        raise ContractTableError(f"{path}: must be a mapping")
    _refuse_twins(data, str(path))
    return data


def _refuse_twins(data: object, where: str) -> None:
    """Two entries of one name in a list would both be checked, or one would hide the other."""
    if isinstance(data, dict):
        for key, value in data.items():
            _refuse_twins(value, f"{where}: {key}")
    elif isinstance(data, list):
        keys = [key for entry in data if (key := _key(entry)) is not None]
        for key in keys:
            if keys.count(key) > 1:
                raise ContractTableError(f"{where}: {'.'.join(filter(None, key))} is there twice")
        for entry in data:
            _refuse_twins(entry, where)


def _key(entry: object) -> tuple[str, ...] | None:
    return (str(entry.get("in") or ""), str(entry["name"])) if isinstance(entry, dict) and "name" in entry else None


def _merged(base: Any, own: Any) -> Any:
    if isinstance(base, dict) and isinstance(own, dict):
        return base | {key: _merged(base[key], value) if key in base else value for key, value in own.items()}
    if isinstance(base, list) and isinstance(own, list):
        theirs, ours = ({_key(entry): entry for entry in entries} for entries in (base, own))
        if None not in theirs and None not in ours:
            return list(_merged(theirs, ours).values())
    return own
