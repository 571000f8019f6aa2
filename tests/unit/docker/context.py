"""What `docker build` would be sent of this repository: all that .dockerignore lets through."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from tests.unit.docker.dockerfile import ROOT

# Large directories at the top, not looked into: .dockerignore leaves them out by its first line, as a test shows.
_SKIPPED = {".git", ".venv", "engines"}


def is_sent(name: str, patterns: list[str]) -> bool:
    """Whether a file is sent, as docker decides it: the last pattern that fits it or a directory above it counts.

    Args:
        name: The file, relative to the context, with slashes.
        patterns: The lines of .dockerignore.
    """
    parts = name.split("/")
    above = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    sent = True
    for pattern in patterns:
        fits = _compiled(pattern.removeprefix("!").strip("/"))
        if any(fits.fullmatch(path) for path in above):
            sent = pattern.startswith("!")
    return sent


def patterns(root: Path = ROOT) -> list[str]:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def sent_files() -> list[str]:
    """The files of this repository that are sent."""
    known, found = patterns(), []
    for directory, below, files in os.walk(ROOT):
        below[:] = sorted(name for name in below if Path(directory) != ROOT or name not in _SKIPPED)
        names = [(Path(directory) / name).relative_to(ROOT).as_posix() for name in sorted(files)]
        found += [name for name in names if is_sent(name, known)]
    return found


def copy_context(place: Path) -> None:
    """Write what is sent into a directory."""
    for name in sent_files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / name)


def _compiled(pattern: str) -> re.Pattern[str]:
    """`**` stands for any directories, `*` for anything but a slash."""
    text = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.compile(text)
