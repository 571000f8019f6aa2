"""Large classes in files of readable size: one class of several parts that `inspect` cannot tell from one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Class = TypeVar("Class", bound=type)


def made_of(*parts: type) -> Callable[[Class], Class]:
    """Take over everything that the parts define, as if it stood in the class itself."""

    def take(cls: Class) -> Class:
        for part in parts:
            for name, value in vars(part).items():
                if name.startswith("__"):
                    continue
                function = getattr(value, "__func__", value)
                if callable(function):
                    function.__module__ = cls.__module__
                    function.__qualname__ = f"{cls.__qualname__}.{name}"
                setattr(cls, name, value)
        return cls

    return take


def reported_by(module: str, *things: Any) -> None:
    """Classes and functions say that they are this module's."""
    for thing in things:
        thing.__module__ = module
