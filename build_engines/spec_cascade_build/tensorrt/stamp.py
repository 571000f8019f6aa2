"""What a finished step leaves in its output directory, so that the next build knows whether it still holds."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import FileEntry, sha256_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILE_NAME = "step.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedFile:
    """A file as a step wrote it: its content, and the time of its last change in nanoseconds."""

    sha256: str
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> StampedFile:
        """Hash a file."""
        entry = FileEntry.of(path)
        return cls(sha256=entry.sha256, size=entry.size, mtime_ns=path.stat().st_mtime_ns)

    @property
    def entry(self) -> FileEntry:
        """As a manifest lists it."""
        return FileEntry(sha256=self.sha256, size=self.size)

    def is_still(self, path: Path) -> bool:
        """Whether a file has this content; it is read only where its time or size differ, for it may have 100 GB."""
        if not path.is_file():
            return False
        found = path.stat()
        if found.st_size != self.size:
            return False
        return found.st_mtime_ns == self.mtime_ns or sha256_of(path) == self.sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Proof that a step was finished.

    Attributes:
        key: Hash of the identity.
        identity: All that determined the output: program, options, inputs, versions.
        command: What ran.
        files: Every file of the output, by POSIX path.
    """

    key: str
    identity: dict[str, Any]
    command: tuple[str, ...]
    files: dict[str, StampedFile]

    @classmethod
    def of(cls, directory: Path, key: str, identity: dict[str, Any], command: Sequence[str]) -> Stamp:
        """Hash what a step wrote."""
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        files = {path.relative_to(directory).as_posix(): StampedFile.of(path) for path in paths}
        return cls(key=key, identity=identity, command=tuple(command), files=files)

    @classmethod
    def read(cls, directory: Path) -> Stamp | None:
        """The stamp in an output directory; None where there is none that can be read."""
        try:
            data = json.loads((directory / FILE_NAME).read_text(encoding="utf-8"))
            files = {name: StampedFile(**entry) for name, entry in data.pop("files").items()}
            return cls(**(data | {"command": tuple(data["command"])}), files=files)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def write(self, directory: Path) -> None:
        """Put it beside the files that it vouches for."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (directory / FILE_NAME).write_text(text, encoding="utf-8")

    def trouble(self, directory: Path) -> str | None:
        """The first file that is no longer what it was."""
        changed = (name for name, file in sorted(self.files.items()) if not file.is_still(directory / name))
        name = next(changed, None)
        return None if name is None else f"{name} is missing or was changed"


def difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs first between two identities, in words."""
    for part in sorted(before.keys() | now.keys()):
        old, new = before.get(part), now.get(part)
        if old == new:
            continue
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return f"{part} was {_shown(old)}, is {_shown(new)}"
        name = min(key for key in old.keys() | new.keys() if old.get(key, _ABSENT) != new.get(key, _ABSENT))
        if part == "inputs":
            return f"its input {name} is another"
        return f"{name} was {_shown(old.get(name, _ABSENT))}, is {_shown(new.get(name, _ABSENT))}"
    return "nothing"


_ABSENT = object()


def _shown(value: object) -> str:
    return "not given" if value is _ABSENT else "given" if value == "" else "unknown" if value is None else str(value)
