"""`spec-cascade build`: a pair file to an engine directory, once.

The same pair, source content and library versions give the same `key`; a whole directory with that key is left as
it is, and found so without loading torch or transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import FORMAT, Manifest
from spec_cascade.errors import EngineError
from spec_cascade.processor import instruction_sets
from spec_cascade_build.digest import digest
from spec_cascade_build.directory import check_replaceable, replaced
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import Pair, check_rule, load_pair
from spec_cascade_build.progress import BytesBar, step
from spec_cascade_build.sources import fingerprint, fingerprint_made
from spec_cascade_build.tensorrt.lock import MARKER

if TYPE_CHECKING:
    from rich.console import Console

# Raised by hand when the same inputs give another directory than before.
BUILD_FORMAT = 2
LIBRARIES = ("gguf", "safetensors", "tokenizers", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class BuildResult:
    """What a build came to.

    Attributes:
        directory: The engine directory.
        manifest: Its manifest.
        up_to_date: The directory was there already, whole and of the same content.
    """

    directory: Path
    manifest: Manifest
    up_to_date: bool


def build(pair_path: Path, output: Path | None, console: Console, *, force: bool = False) -> BuildResult:
    """Build the engine directory of a pair file, unless it is there.

    Args:
        pair_path: The pair file.
        output: The engine directory, replaced as a whole; None means ``engines/<name of the pair>``.
        console: Shows progress.
        force: Build even if the directory is up to date.

    Raises:
        PairError: The pair file is wrong.
        BuildError: A source, checkpoint or vocabulary does not allow the build, or the directory is of another engine.
    """
    pair = load_pair(pair_path)
    return build_pair(pair, pair_path, output or Path("engines") / pair.name, console, force=force)


def build_pair(pair: Pair, pair_path: Path, directory: Path, console: Console, *, force: bool = False) -> BuildResult:
    """As `build`, of a pair that was read from ``pair_path``."""
    _check_engine(directory, pair.engine)
    if pair.engine == "tensorrt_llm":
        from spec_cascade_build.tensorrt_llm.build import build_engine

        found, was_there = build_engine(
            pair, pair_path, directory, console, lambda key: _up_to_date(directory, key, console), force=force
        )
        return BuildResult(directory, found, up_to_date=was_there)
    if pair.engine == "tensorrt":
        from spec_cascade_build.tensorrt.build import build_engines

        found, was_there = build_engines(pair, pair_path, directory, console, force=force)
        return BuildResult(directory, found, up_to_date=was_there)
    versions = library_versions()
    key = _key(pair, pair_path.parent, versions, console)
    if not force and (manifest := _up_to_date(directory, key, console)) is not None:
        return BuildResult(directory, manifest, up_to_date=True)
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    check_replaceable(directory)

    # Loads torch and transformers.
    from spec_cascade_build.engine_writer import EngineWriter

    with replaced(directory) as new:
        manifest = EngineWriter(pair, pair_path.parent, new, console).write(key, versions)
    return BuildResult(directory, manifest, up_to_date=False)


def library_versions() -> dict[str, str]:
    """Of all that what is built or made depends on."""
    return {name: version(name) for name in LIBRARIES}


def _check_engine(directory: Path, engine: str) -> None:
    """Verify that no other engine's directory would be replaced: hours of compiling may lie beside it.

    Raises:
        BuildError: It is another engine's.
    """
    try:
        found = Manifest.read(directory).engine
    except EngineError:
        found = "tensorrt" if (directory / MARKER).exists() else engine
    if found != engine:
        raise BuildError(
            f"{directory} holds an engine for {found!r}, and the pair is for {engine!r}: remove it or choose another "
            "place"
        )


def _key(pair: Pair, base: Path, versions: dict[str, str], console: Console) -> str:
    """Hash of everything that determines the engine directory; a source counts by its content, not by its place."""
    content = pair.model_dump(mode="json", exclude={"tensorrt_llm", "tensorrt"})
    content["target"] = fingerprint(pair.target, base, console)
    if pair.drafter is not None and pair.drafter.is_model:
        content["drafter"] = fingerprint(pair.drafter, base, console)
    elif pair.drafter is not None and pair.drafter.make is not None:
        # What was made counts, not how: a changed recipe builds anew once its drafter has been made anew.
        content["drafter"] = fingerprint_made(pair.drafter.make.place(base))
    inputs = {"format": [FORMAT, BUILD_FORMAT], "pair": content, "versions": versions}
    if pair.compile:
        inputs["processor"] = instruction_sets()
    return digest(inputs)


def _up_to_date(directory: Path, key: str, console: Console) -> Manifest | None:
    """The manifest in ``directory`` if it has this key and its files are whole."""
    try:
        manifest = Manifest.read(directory)
        if manifest.key != key:
            return None
        total = sum(entry.size for entry in manifest.files.values())
        with BytesBar(console, f"checking {directory}", total) as bar:
            manifest.check(directory, bar.gain)
    except EngineError as error:
        if directory.exists():
            console.print(f"building again: {error}", soft_wrap=True, highlight=False)
        return None
    return manifest
