"""Where a drafter is made: everything that a kill must not cost."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spec_cascade_build.digest import digest
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade.engines.manifest import CompiledEntry

_KEY = "key.json"


class WorkDirectory:
    """A directory of one making, which a second call of the same command goes on with.

    target/   the target as an engine directory
    text/<key>/   a text of the target's own, a file a shard
    training.pt
    text-<machine>.pt2   the compiled target

    Args:
        path: The directory; made where there is none.
        inputs: What determines every text; a directory that was begun with something else is refused.

    Raises:
        BuildError: The directory was begun with other inputs, or holds something else.
    """

    def __init__(self, path: Path, inputs: dict[str, Any]) -> None:
        self.path = path
        key, partial = path / _KEY, path / f".{_KEY}.partial"
        if path.exists() and not key.is_file() and (not path.is_dir() or {*path.iterdir()} - {partial}):
            raise BuildError(f"{path} exists and was not begun by drafter make: remove it or choose another --work")
        if key.is_file() and json.loads(key.read_text(encoding="utf-8")) != _plain(inputs):
            raise BuildError(f"{path} was begun with another target, dtype or seed: remove it or choose another --work")
        path.mkdir(parents=True, exist_ok=True)
        if not key.is_file():
            partial.write_text(json.dumps(_plain(inputs), indent=2) + "\n", encoding="utf-8")
            partial.rename(key)

    @property
    def target(self) -> Path:
        """The target as an engine directory."""
        return self.path / "target"

    @property
    def training(self) -> Path:
        """The newest checkpoint of the training."""
        return self.path / "training.pt"

    def package(self, here: CompiledEntry) -> Path:
        """The target without its head, compiled for a machine."""
        return self.path / f"text-{digest(asdict(here))[:12]}.pt2"

    def shard(self, text: str, number: int) -> Path:
        """A part of the text with this key."""
        return self.path / "text" / text[:12] / f"{number:05d}.safetensors"


def _plain(inputs: dict[str, Any]) -> Any:
    """As JSON has it: tuples as lists."""
    return json.loads(json.dumps(inputs))
