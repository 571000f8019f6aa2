"""A model given as one word on a command line: a directory, or a hub model with its commit."""

from __future__ import annotations

from pathlib import Path

from spec_cascade.engines.model_reference import fetch_checkpoint
from spec_cascade_build.errors import BuildError


def checkpoint_at(place: str) -> Path:
    """The checkpoint directory of ``path`` or ``organisation/name@commit``.

    Raises:
        BuildError: It is neither.
        EngineError: The hub model cannot be fetched.
    """
    if Path(place).is_dir():
        return Path(place)
    hub, found, commit = place.partition("@")
    if not found or hub.count("/") != 1 or not commit:
        raise BuildError(f"{place} is neither a directory nor organisation/name@commit")
    return fetch_checkpoint(hub, commit)
