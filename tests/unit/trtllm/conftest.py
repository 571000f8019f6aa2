"""TensorRT-LLM, played in each of its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.trtllm_fake import SHAPES
from tests.unit.trtllm.playing import playing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=list(SHAPES))
def shape(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every shape."""
    with playing(request.param):
        yield request.param


@pytest.fixture(params=["s15", "s2"])
def later(request: pytest.FixtureRequest) -> Iterator[str]:
    """What the first shape cannot do."""
    with playing(request.param):
        yield request.param


@pytest.fixture
def newest() -> Iterator[str]:
    """Where shapes make no difference: the one of 1.2.1."""
    with playing("s15"):
        yield "s15"
