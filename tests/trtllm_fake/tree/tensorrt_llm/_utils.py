"""Small helpers."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def nvtx_range(msg: str, color: str = "grey", domain: str = "TensorRT-LLM") -> Callable[[Any], Any]:
    """A decorator that would show a function in a profiler."""

    def decorate(function: Any) -> Any:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    return decorate
