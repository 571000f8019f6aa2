"""Adds packages to an image and changes none that it has: constraints for pip, and the proof afterwards.

An NVIDIA image carries builds of torch, numpy, transformers and TensorRT-LLM that were made for each other and that no
index has all of. A constraint for everything that is installed makes pip fail where it would replace one of them.

    python3 held.py write PINS HELD             into HELD: all that is installed, and of PINS what is not
    python3 held.py check HELD                  status 1 where something that was installed has changed or gone
    python3 held.py require PACKAGE EXTRA...    status 1 where an installed package lacks something it requires

Needs nothing but the standard library and `packaging`, which transformers needs too.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, distributions, requires, version
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PINNED = "# Not installed then: pinned by this project."
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def installed() -> dict[str, str]:
    """Versions by canonical name; of two with one name, the one that is imported."""
    found: dict[str, str] = {}
    for distribution in distributions():
        # A directory that a failed removal left behind has no name.
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def constraints(here: Mapping[str, str], pins: Iterable[str]) -> str:
    """Constraints that hold what is here, and pin the rest as the pins say.

    Args:
        here: Versions by canonical name.
        pins: Lines of another constraints file.
    """
    held = [f"{name}=={found}" for name, found in sorted(here.items()) if _is_version(found)]
    names = [(line.strip(), _NAME.match(line)) for line in pins]
    rest = [line for line, name in names if name is not None and canonicalize_name(name.group()) not in here]
    return "\n".join([*held, _PINNED, *rest, ""])


def changed(held: str, here: Mapping[str, str]) -> list[str]:
    """What is no longer as it was.

    Args:
        held: What `constraints` returned.
        here: Versions now.
    """
    before = dict(line.split("==") for line in held.partition(_PINNED)[0].split())
    return [f"{name} {was} became {here.get(name, 'nothing')}" for name, was in before.items() if here.get(name) != was]


def lacking(package: str, extras: Iterable[str]) -> list[str]:
    """What an installed package requires, with these extras, and does not find; its own name among it is left out.

    Raises:
        PackageNotFoundError: It is not installed itself.
    """
    wanted = [Requirement(text) for text in requires(package) or ()]
    chosen = ["", *extras]
    found = []
    for need in wanted:
        asked = need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in chosen)
        if asked and canonicalize_name(need.name) != canonicalize_name(package) and not _is_met(need):
            found.append(f"{need.name}{need.specifier}")
    return found


def main(words: list[str]) -> int:
    """Run one of the three verbs; returns its exit status."""
    match words:
        case ["write", pins, held]:
            text = constraints(installed(), Path(pins).read_text(encoding="utf-8").splitlines())
            Path(held).write_text(text, encoding="utf-8")
            return 0
        case ["check", held]:
            return _told("changed", changed(Path(held).read_text(encoding="utf-8"), installed()))
        case ["require", package, *extras]:
            return _told(f"{package} lacks", lacking(package, extras))
    sys.stderr.write(__doc__ or "")
    return 2


def _told(what: str, names: list[str]) -> int:
    for name in names:
        sys.stderr.write(f"{what}: {name}\n")
    return 1 if names else 0


def _is_met(need: Requirement) -> bool:
    try:
        # NVIDIA's torch calls itself a pre-release.
        return need.specifier.contains(version(need.name), prereleases=True)
    except PackageNotFoundError:
        return False


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False  # of a package of the distribution's; pip would refuse the whole file
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
