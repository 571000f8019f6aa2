"""To look into a run without standing in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.trtllm_fake.bench import Bench


def look(thing: Any, name: str, at: Callable[..., object]) -> Any:
    """Call ``at`` with the arguments of an object's method ahead of each of its calls; returns the original."""
    original = getattr(thing, name)

    def looked_at(*args: Any, **kwargs: Any) -> Any:
        at(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(thing, name, looked_at)
    return original


def drafted(bench: Bench) -> list[tuple[list[Any], Any]]:
    """A list that grows: drafted tokens and their rows, of what generates, as each forward of the target finds them."""
    seen: list[tuple[list[Any], Any]] = []
    look(
        bench.executor,
        "_forward_step",
        lambda batch: seen.extend((list(r.py_draft_tokens), r.py_draft_logits) for r in batch.generation_requests),
    )
    return seen


def target_rows(bench: Bench) -> list[tuple[Any, Any]]:
    """A list that grows: the rows of each forward of the target, and a copy from before the sampler had them."""
    seen: list[tuple[Any, Any]] = []
    look(
        bench.executor, "_sample_async", lambda _, outputs: seen.append((outputs["logits"], outputs["logits"].clone()))
    )
    return seen
