"""Distributions small enough to make on the spot."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zipfile import ZipFile

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def metadata(name: str, version: str, requires: Iterable[str] = ()) -> str:
    needs = [f"Requires-Dist: {text}" for text in requires]
    return "\n".join(["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *needs, ""])


def write_installed(site: Path, name: str, version: str, requires: Iterable[str] = ()) -> None:
    """Have a distribution look installed: what its module would do is of no interest."""
    directory = site / f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir(parents=True)
    (directory / "METADATA").write_text(metadata(name, version, requires), encoding="utf-8")


def write_wheel(shop: Path, name: str, version: str, requires: Iterable[str] = ()) -> None:
    """A wheel that pip installs."""
    shop.mkdir(exist_ok=True)
    stem = f"{name}-{version}"
    with ZipFile(shop / f"{stem}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{stem}.dist-info/METADATA", metadata(name, version, requires))
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
