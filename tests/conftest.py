"""What all tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from rich.console import Console

# Without a GPU the kernels are interpreted; Triton-lang looks at this once, when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A job in a shell's background is started with SIGINT ignored, and would hand that on to the commands that tests
# interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A test says the same everywhere and every day: no clock ends an example, and the examples are always the same.
# SPEC_CASCADE_EXAMPLES asks for new ones.
settings.register_profile(
    "tests",
    deadline=None,
    derandomize="SPEC_CASCADE_EXAMPLES" not in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def demo_engine() -> Path:
    """The engine directory of the demo pair, as `make demo` builds it; built once, then found up to date."""
    from spec_cascade_build.build import build

    output = ROOT / "engines" / "smollm2-demo"
    build(ROOT / "build_engines" / "configs" / "smollm2-demo.yaml", output, Console(stderr=True))
    return output
