"""What `inspect` can see of a callable or a class, compared with what a contract says of it."""

from __future__ import annotations

import dataclasses
import inspect
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from spec_cascade.engines.tensorrt_llm.contract import Signature

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def signature_fault(found: Callable[..., Any], expected: Signature, *, bound: bool) -> str | None:
    """What a callable has instead of the parameters that are expected; None where it has those.

    Args:
        found: The callable; what decorators have wrapped with ``functools.wraps`` is seen through.
        expected: The contract's.
        bound: Its first parameter is ``self`` or ``cls``, which a contract leaves out.
    """
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError) as error:
        return f"no signature that can be seen ({error})"
    parameters = list(signature.parameters.values())
    if bound and parameters and parameters[0].kind in _POSITIONAL:
        parameters = parameters[1:]
    signature = signature.replace(parameters=parameters)
    if parameters and all(p.kind in _VARIADIC for p in parameters):
        return f"{signature_text(signature)}: what it wraps cannot be seen"
    exactly = expected.use == "overridden"
    if _has_names(parameters, expected.subset) and _has_params(parameters, expected, exactly):
        return None
    return signature_text(signature)


def expected_text(expected: Signature) -> str:
    """How a contract's parameters read in an error."""
    if expected.params is None:
        return f"parameters {', '.join(expected.subset)}"
    keywords = ("*", *expected.kw) if expected.kw else ()
    return f"({', '.join((*expected.params, *keywords))})"


def signature_text(signature: inspect.Signature) -> str:
    """Parameters without annotations and defaults: ``(request, *, step=…)``."""
    shown: list[str] = []
    for name, parameter in signature.parameters.items():
        stars = "*" if parameter.kind == inspect.Parameter.VAR_POSITIONAL else ""
        stars = "**" if parameter.kind == inspect.Parameter.VAR_KEYWORD else stars
        if parameter.kind == inspect.Parameter.KEYWORD_ONLY and not any(s.startswith("*") for s in shown):
            shown.append("*")
        shown.append(f"{stars}{name}" + ("" if parameter.default is inspect.Parameter.empty else "=…"))
    return f"({', '.join(shown)})"


def kind_of(held: object) -> str | None:
    """What a class's dictionary holds under a name; None for what is compiled and does not say."""
    if isinstance(held, classmethod):
        return "classmethod"
    if isinstance(held, staticmethod):
        return "staticmethod"
    if isinstance(held, property):
        return "property"
    return "method" if isinstance(held, FunctionType) else None


def looks_up(found: Callable[..., Any], name: str) -> bool:
    """Whether a function's code, or that of a function inside it, looks up a global or an attribute of this name."""
    code = getattr(inspect.unwrap(found), "__code__", None)
    return code is not None and name in _names(code)


def field_names(owner: type) -> tuple[str, ...]:
    """Fields of a dataclass or a pydantic model; none for other classes."""
    if dataclasses.is_dataclass(owner):
        return tuple(field.name for field in dataclasses.fields(owner))
    return tuple(getattr(owner, "model_fields", ()))


def _has_names(parameters: list[inspect.Parameter], subset: tuple[str, ...]) -> bool:
    return set(subset) <= {p.name for p in parameters}


def _has_params(parameters: list[inspect.Parameter], expected: Signature, exactly: bool) -> bool:
    if expected.params is None:
        return True
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    keywords = {p.name for p in parameters if p.kind == inspect.Parameter.KEYWORD_ONLY}
    named = [p.name for p in positional]
    if exactly:
        return named == list(expected.params) and keywords == set(expected.kw)
    after = positional[len(expected.params) :]
    if named[: len(expected.params)] != list(expected.params):
        return False
    # A keyword-only parameter may have become one that can also be given by position.
    if not set(expected.kw) <= keywords | {p.name for p in after}:
        return False
    others = [p for p in parameters if p.kind not in _VARIADIC and p.name not in (*expected.params, *expected.kw)]
    return all(p.default is not inspect.Parameter.empty for p in others)


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
