"""Wheels of a package registry, fetched by pip, pinned by hash, kept in a cache, never installed."""

from __future__ import annotations

import subprocess
import sys
from collections import deque
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import sha256_of
from spec_cascade_build.directory import workshop
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import BytesBar, step

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console

    from spec_cascade_build.pair import Package

# The first pip that can report its progress to another program.
_PIP_WITH_RAW_PROGRESS = (24, 1)


def fetch_wheel(package: Package, cache: Path, console: Console) -> Path:
    """Return the wheel in the cache, downloaded if it is not there or no longer has its hash.

    pip decides where from, by its usual configuration.

    Raises:
        BuildError: pip cannot get it, or what it got has another hash.
    """
    directory = cache / package.sha256
    for wheel in directory.glob("*.whl"):
        if sha256_of(wheel) == package.sha256:
            return wheel
    with workshop(cache, "download-") as temporary:
        wheel = _download(package, temporary, console)
        if sha256_of(wheel) != package.sha256:
            raise BuildError(f"{wheel.name} does not have the SHA-256 that the pair file pins")
        directory.mkdir(exist_ok=True)
        return wheel.replace(directory / wheel.name)


def _download(package: Package, directory: Path, console: Console) -> Path:
    raw = _pip_version() >= _PIP_WITH_RAW_PROGRESS
    requirement = f"{package.name}=={package.version}"
    requirements = directory / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{package.sha256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--no-cache-dir", "--only-binary=:all:", "--require-hashes"]
    command += ["--progress-bar", "raw" if raw else "off"]
    command += ["--dest", str(directory), "--requirement", str(requirements)]
    with (directory / "stderr").open("w+", encoding="utf-8", errors="replace") as report:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=report, encoding="utf-8", errors="replace"
        ) as process:
            assert process.stdout is not None
            _show_progress(process.stdout, f"downloading {requirement}", console, raw)
        report.seek(0)
        said = report.read()
    wheels = list(directory.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "DO NOT MATCH THE HASHES" in said:
        raise BuildError(f"{requirement} does not have the SHA-256 that the pair file pins")
    lines = said.strip().splitlines() or [f"exit status {process.returncode}"]
    reason = next((line for line in reversed(lines) if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
    raise BuildError(f"pip cannot download {requirement}: {reason}")


def _show_progress(lines: Iterator[str], title: str, console: Console, raw: bool) -> None:
    """Follow what pip says until it ends; its raw progress is lines of the form `Progress <bytes> of <bytes>`."""
    if not raw:
        with step(console, title):
            deque(lines, maxlen=0)
        return
    with BytesBar(console, title) as bar:
        for line in lines:
            words = line.split()
            if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
                bar.reach(int(words[1]), int(words[3]))


def _pip_version() -> tuple[int, ...]:
    try:
        parts = version("pip").split(".")
    except PackageNotFoundError:
        raise BuildError(f"{sys.executable} has no pip: install it with `python -m ensurepip`") from None
    return tuple(int(part) for part in parts[:2] if part.isdigit())
