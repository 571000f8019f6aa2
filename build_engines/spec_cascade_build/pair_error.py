"""What is wrong with a pair file, in one line: the field, its value, what is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from pydantic import BaseModel

from spec_cascade.errors import ConfigError, did_you_mean
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError
    from pydantic.fields import FieldInfo


class PairFileError(BuildError):
    """A pair file is missing, or is not YAML."""


class PairError(ConfigError):
    """A field of a pair file has a value that is not allowed, is missing, or does not exist.

    Args:
        path: The pair file.
        field: The field with its section: ``defaults.draft_length``.
        value: The offending value.
        allowed: What would be allowed, as a phrase.
        text: The sentence after the file's name, where the usual one does not fit.
    """

    def __init__(self, path: Path, field: str, value: object, allowed: str, text: str | None = None) -> None:
        super().__init__(field, value, allowed)
        self.path = path
        self.args = (f"{path}: {text or self.args[0]}",)

    @classmethod
    def of(cls, path: Path, error: ConfigError) -> PairError:
        """An error of a field as one of the pair file that holds it."""
        return error if isinstance(error, PairError) else cls(path, error.field, error.value, error.allowed)


def first_error(path: Path, model: type[BaseModel], error: ValidationError) -> PairError:
    """The first of pydantic's errors as ours; an unknown key comes first, for it often explains the others."""
    details = error.errors(include_url=False)
    detail = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    section, steps = _walk(model, detail["loc"])
    where = ".".join(steps)
    if kind == "extra_forbidden":
        names = list(section.model_fields)
        allowed = f"one of {', '.join(names)}"
        hint = did_you_mean(steps[-1], names)
        return PairError(path, where, value, allowed, f"{where} is not a field{hint}: must be {allowed}")
    if kind == "pair":
        where = ".".join(step for step in (where, context["field"]) if step)
        return PairError(path, where or "the file", context["value"], context["allowed"])
    allowed = _allowed(section, steps)
    if kind == "missing":
        return PairError(path, where, None, allowed, f"{where} is missing: must be {allowed}")
    return PairError(path, where or "the file", value, allowed)


def _walk(model: type[BaseModel], location: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """The section that holds the last field of a pydantic location, and the fields that lead to it."""
    section, inner = model, model
    steps: list[str] = []
    for step in location:
        if isinstance(step, int):
            steps[-1] += f"[{step}]"
            continue
        section = inner
        steps.append(step)
        field = section.model_fields.get(step)
        inner = _section(field) if field is not None else section
    return section, steps


def _section(field: FieldInfo) -> type[BaseModel]:
    """The model that a field's type is or may be; the root model stands for none."""
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), BaseModel)


def _allowed(section: type[BaseModel], steps: list[str]) -> str:
    """What a field's author may write: the description in the model; a missing one is a bug that a test finds."""
    if not steps:
        return f"a mapping with the fields {', '.join(section.model_fields)}"
    return str(section.model_fields[steps[-1].partition("[")[0]].description)
