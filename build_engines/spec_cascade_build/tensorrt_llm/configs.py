"""Where the configuration files of a checkpoint are, without its weights."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade_build.errors import BuildError
from spec_cascade_build.sources import WITHOUT_WEIGHTS, fetch_from_hub

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade_build.pair import Source

VARIABLE = "SPEC_CASCADE_CONFIGS"
"""Names the directory of `--configs` where that is not given."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Configs:
    """A checkpoint without weights.

    Attributes:
        directory: Holds `config.json`, and other files where they are known.
        title: What to call the checkpoint: its model id, or its path.
        commit: Of a hub model, where it is known; None otherwise.
    """

    directory: Path
    title: str
    commit: str | None


def configs_directory(given: Path | None) -> Path | None:
    """The directory of configuration files that was asked for; None is the hub."""
    return given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)


def find_configs(source: Source, base: Path, configs: Path | None, console: Console) -> Configs:
    """Find the configuration files of a model.

    Args:
        source: A hub model or a directory.
        base: Where relative paths start.
        configs: Holds `<organisation>/<name>/config.json` of hub models, for machines without a network; None asks the
            hub, for these small files only.
        console: Says what is fetched.

    Raises:
        BuildError: They cannot be found.
    """
    if source.path is not None:
        directory = local_directory(source.path, base)
        if not (directory / "config.json").is_file():
            raise BuildError(f"{directory} has no config.json: not a Hugging Face checkpoint")
        return Configs(directory, str(directory), None)
    hub = str(source.hub)
    if configs is not None:
        if not (configs / hub / "config.json").is_file():
            raise BuildError(f"{configs / hub / 'config.json'}: no such file; --configs looks for {hub} there")
        return Configs(configs / hub, hub, pinned_commit(source))
    directory = _from_hub(hub, source.revision, console)
    return Configs(directory, hub, directory.name if _COMMIT.fullmatch(directory.name) else pinned_commit(source))


def local_directory(path: str, base: Path) -> Path:
    """A directory that a pair file names, as the engine directory names it: in full, wherever the build is started.

    Args:
        path: What the pair file says.
        base: Where relative paths start.
    """
    return (base / Path(path).expanduser()).resolve()


def pinned_commit(source: Source) -> str | None:
    """The commit of a hub model where the pair file names one, not a branch or a tag."""
    return source.revision if source.revision is not None and _COMMIT.fullmatch(source.revision) else None


def _from_hub(hub: str, revision: str | None, console: Console) -> Path:
    what = f"the configuration of {hub}"
    console.print(f"fetching {what} from the Hugging Face hub")
    return fetch_from_hub(hub, revision, WITHOUT_WEIGHTS, what, f": give it with --configs or {VARIABLE}")
