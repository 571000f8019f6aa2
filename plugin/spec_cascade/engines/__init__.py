"""Engines behind one protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import Manifest
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from spec_cascade.engines.protocol import Engine

__all__ = ["open_engine"]


def open_engine(engine_dir: Path | str) -> Engine:
    """Start the engine that a directory holds, after checking that it is whole.

    Raises:
        EngineError: The directory is missing, unfinished or damaged, or its kind of engine is unknown.
    """
    directory = Path(engine_dir)
    manifest = Manifest.read(directory)
    manifest.check(directory)
    if manifest.engine == "tensorrt_llm":
        from spec_cascade.engines.tensorrt_llm.open import open_tensorrt_llm

        return open_tensorrt_llm(directory, manifest)
    if manifest.engine == "tensorrt":
        raise EngineError(f"{directory}: compiled engines can be built, and not run yet: use engine tensorrt_llm")
    if manifest.engine != "pytorch":
        raise EngineError(
            f"{directory}: engine {manifest.engine!r} is not known; this version runs 'pytorch' and 'tensorrt_llm'"
        )
    from spec_cascade.engines.pytorch.open import open_pytorch

    return open_pytorch(directory, manifest)
