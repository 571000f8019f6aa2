"""A made drafter as it is kept: its own tensors in small files, and the names of those that are the target's.

config.json  drafter.json  README.md
model-00001-of-0000n.safetensors ...   its own tensors
head.safetensors                       the tokens that it can propose; not there where these are all
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spec_cascade.engines.manifest import SHARED_TENSORS, TRIMMED_HEAD, WEIGHTS
from spec_cascade.engines.pytorch.load import DTYPES, TOKEN_IDS, head_tokens
from spec_cascade.errors import EngineError
from spec_cascade_build.checkpoints import check_covered, pruned_config
from spec_cascade_build.errors import BuildError
from spec_cascade_build.sources import MADE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from transformers import PretrainedConfig

FORMAT = 1
MOST_BYTES = 15_000_000
"""Of one file: what code hosts and reviewers bear."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeDrafter:
    """`drafter.json`: where a drafter comes from.

    Attributes:
        target: What identifies the target's content; a drafter works with this target only.
        layers: The target's layers that it began with.
        recipe: `drafter.make` of its pair file.
        versions: Of the libraries that made it.
        figures: What was measured.
        shared: Names of the drafter's tensors that are the target's, and what they are called there.
    """

    target: dict[str, str]
    layers: list[int]
    recipe: dict[str, Any]
    versions: dict[str, str]
    figures: dict[str, float | int]
    shared: dict[str, str]

    @classmethod
    def read(cls, directory: Path) -> MadeDrafter:
        """Read `drafter.json`.

        Raises:
            BuildError: There is none, or this version does not read it.
        """
        path = directory / MADE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.pop("format") != FORMAT:
                raise BuildError(f"{path} is of another format: run spec-cascade drafter make again")
            return cls(**data)
        except FileNotFoundError as error:
            raise BuildError(f"{directory} has no {MADE}: run spec-cascade drafter make first") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BuildError(f"{path} cannot be read: {error}") from error

    def write(self, directory: Path) -> None:
        """Write `drafter.json`."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"
        (directory / MADE).write_text(text, encoding="utf-8")


def write_weights(directory: Path, tensors: Mapping[str, Tensor], head: Tensor | None) -> None:
    """Write a drafter's own tensors, in files of at most `MOST_BYTES` unless one tensor is larger."""
    parts: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in sorted(tensors.items()):
        if parts[-1] and size + tensor.nbytes > MOST_BYTES:
            parts.append({})
            size = 0
        parts[-1][name] = tensor.contiguous()
        size += tensor.nbytes
    for number, part in enumerate(parts, 1):
        _save(part, directory / f"model-{number:05d}-of-{len(parts):05d}.safetensors")
    if head is not None:
        _save({TOKEN_IDS: head.long()}, directory / TRIMMED_HEAD)


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path, {"format": "pt"})
    # Others may serve what this user built: the usual permissions, not safetensors' private ones.
    path.chmod(path.parent.stat().st_mode & 0o666)


def install(
    source: Path, target: PretrainedConfig, fingerprint: dict[str, str], dtype: str, directory: Path
) -> int | None:
    """Write `drafter/` of an engine directory from a made drafter.

    Args:
        source: The made drafter.
        target: The target's configuration.
        fingerprint: What identifies the target's content.
        dtype: Type of the weights in the engine directory.
        directory: Where to write.

    Returns:
        How many tokens it can propose; None where these are all.

    Raises:
        BuildError: It is not there, is damaged, or was made from another target.
    """
    made = MadeDrafter.read(source)
    if made.target != fingerprint:
        raise BuildError(f"the drafter in {source} was made from another target: run spec-cascade drafter make again")
    try:
        parts = [load_file(path) for path in sorted(source.glob("model-*.safetensors"))]
        head = head_tokens(source, target.vocab_size)
    except (OSError, SafetensorError, EngineError) as error:
        raise BuildError(f"the drafter in {source} cannot be read: {error}") from error
    config = pruned_config(target, made.layers)
    cast = {name: tensor.to(DTYPES[dtype]) for part in parts for name, tensor in part.items()}
    check_covered(config, {*made.shared, *cast}, f"the drafter in {source} is damaged")
    config.save_pretrained(directory)
    _save(cast, directory / WEIGHTS)
    (directory / SHARED_TENSORS).write_text(json.dumps(made.shared, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if head is None:
        return None
    _save({TOKEN_IDS: head}, directory / TRIMMED_HEAD)
    return len(head)
