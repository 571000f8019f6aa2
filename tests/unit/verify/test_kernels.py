"""The kernels, interpreted: token for token the reference. What a compiler would refuse, `test_kernel_builds` tells."""

from __future__ import annotations

import os

import pytest

from tests.unit.verify.kernel_laws import KernelLaws


@pytest.fixture
def device() -> str:
    return "cpu"


@pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="Triton-lang compiles here; tests/gpu holds the same laws"
)
class TestInterpretedKernels(KernelLaws):
    """All laws, on the CPU."""
