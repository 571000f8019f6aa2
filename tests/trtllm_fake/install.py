"""Puts the fake in the place of TensorRT-LLM, and takes it away."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.trtllm_fake import stage
from tests.trtllm_fake.shapes import SHAPES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

TREE = str(Path(__file__).parent / "tree")


@contextmanager
def installed(
    shape: str, *, threaded: bool = True, drafter_sees: str = "text", finish_chunks: bool | None = None
) -> Iterator[ModuleType]:
    """Play TensorRT-LLM under its real module names; its modules are new ones each time.

    Args:
        shape: "s1", "s15" or "s2", see `shapes.Shape`.
        threaded: Run the executor's loop in a thread of its own, as the real one does. Else nothing runs by itself:
            whoever waits for a response runs the rounds up to it, and rounds can be stepped.
        drafter_sees: "text", all committed tokens, or "cache", what the real loop has left in the drafter's KV cache:
            no first token in the first round, and a gap where a whole draft was accepted.
        finish_chunks: Whether each step's logits of the drafter reach the host at once. Sources of both kinds exist;
            without it ``py_draft_logits`` of the step-by-step loop stays None for drafts under 16 tokens. By default
            they do since 1.2.0rc8; before, they would come with a dimension of beams that the sampler does not take.

    Yields:
        The module ``tensorrt_llm``.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape is {shape!r}, allowed: {', '.join(SHAPES)}")
    if drafter_sees not in ("text", "cache"):
        raise ValueError(f"drafter_sees is {drafter_sees!r}, allowed: text, cache")
    if _modules():
        raise RuntimeError("a tensorrt_llm is imported already")
    chosen = SHAPES[shape]
    stage.enter(
        stage.Stage(
            shape=chosen,
            threaded=threaded,
            drafter_sees=drafter_sees,
            finish_chunks=chosen.since_1_2_0 if finish_chunks is None else finish_chunks,
        )
    )
    sys.path.insert(0, TREE)
    try:
        yield importlib.import_module("tensorrt_llm")
    finally:
        try:
            stage.leave()
        finally:
            sys.path.remove(TREE)
            for name in _modules():
                del sys.modules[name]


def _modules() -> list[str]:
    return [name for name in sys.modules if name.partition(".")[0] == "tensorrt_llm"]
