"""Triton-lang's decorator and launch, typed; kernels are written in a language that Python's types do not cover."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import triton

if TYPE_CHECKING:
    from collections.abc import Callable


class Kernel(Protocol):
    """A Triton-lang function: the host launches ``kernel[grid](...)``, another kernel calls it by its name."""

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...  # noqa: D102


def jit(function: Callable[..., Any]) -> Kernel:
    """Make ``function`` a kernel: compiled on a GPU, interpreted where ``TRITON_INTERPRET=1`` was set in time."""
    return cast("Kernel", triton.jit(function))


def run(kernel: Kernel, programs: int, *args: object, warps: int = 4, **constants: object) -> None:
    """Launch ``programs`` programs of a kernel.

    Products are rounded before they are added, as torch rounds them: a fused multiply-add would tell equal rows apart.
    """
    kernel[(programs,)](*args, num_warps=warps, enable_fp_fusion=False, **constants)
