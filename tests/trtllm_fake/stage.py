"""What is being played now; the modules of the fake ask here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trtllm_fake.models import FakeModel
    from tests.trtllm_fake.shapes import Shape


@dataclass(slots=True, kw_only=True)
class Stage:
    """See `installed` for the attributes that are its parameters.

    Attributes:
        models: By the path that names them.
        at_leave: Called when the fake is taken away: what still runs.
    """

    shape: Shape
    threaded: bool
    drafter_sees: str
    finish_chunks: bool
    models: dict[str, FakeModel] = field(default_factory=dict)
    at_leave: list[Callable[[], None]] = field(default_factory=list)


_entered: list[Stage] = []


def current() -> Stage:
    """What is being played.

    Raises:
        RuntimeError: Nothing is.
    """
    if not _entered:
        raise RuntimeError("no fake of TensorRT-LLM is installed: use it within tests.trtllm_fake.installed(...)")
    return _entered[-1]


def enter(stage: Stage) -> None:
    """Begin to play."""
    _entered.append(stage)


def leave() -> None:
    """Stop what runs, and play nothing any more."""
    stage = current()
    try:
        while stage.at_leave:
            stage.at_leave.pop()()
    finally:
        _entered.pop()


def register(path: str, model: FakeModel) -> None:
    """Give a model for the path by which the code under test names it; until the fake is taken away."""
    current().models[str(path)] = model
