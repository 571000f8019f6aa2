"""What determines an engine directory, and what determines the quantised checkpoints in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import FORMAT
from spec_cascade_build.digest import digest
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fingerprint, fingerprint_files
from spec_cascade_build.tensorrt_llm.configs import local_directory
from spec_cascade_build.tensorrt_llm.gpus import THIS

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from spec_cascade.engines.tensorrt_llm.gpus import Gpu
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.section import Role, TensorrtLlmSection

# Raised by hand when the same inputs give another directory than before.
BUILD_FORMAT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """All of it, by content.

    Attributes:
        pair: The pair file, without its sources.
        sources: What identifies each model's content.
        places: Directories that the engine directory will name: those of models which are not quantised.
        calibration: What identifies the calibration's texts; their name where they are not on this machine.
        versions: Of the libraries.
        gpu: The machine's GPU: its name, and its memory where that is planned with.
    """

    pair: dict[str, Any]
    sources: dict[Role, dict[str, str]]
    places: dict[Role, str]
    calibration: dict[str, str] | str
    versions: dict[str, str]
    gpu: tuple[str, int | None]

    @property
    def key(self) -> str:
        """Hash of all of it; a source counts by its content, and by its place where the engine directory names it."""
        names = ("pair", "sources", "places", "calibration", "versions", "gpu")
        return digest({"format": [FORMAT, BUILD_FORMAT], **{name: getattr(self, name) for name in names}})

    def content(self, role: Role) -> str:
        """Hash of what identifies a model."""
        return digest(self.sources[role])

    def quantisation(self, role: Role, section: TensorrtLlmSection) -> dict[str, Any]:
        """What determines a quantised checkpoint."""
        return {
            "format": BUILD_FORMAT,
            "source": self.sources[role],
            "quantise": section.quantisation(role),
            "kv_cache": section.kv_cache,
            "calibration": self.calibration,
            "samples": section.calibration_size,
            "versions": self.versions,
        }


def find_inputs(pair: Pair, base: Path, versions: dict[str, str], gpu: Gpu, console: Console) -> Inputs:
    """Hash what a pair names.

    Args:
        pair: The pair.
        base: Where its relative paths start.
        versions: Of the libraries.
        gpu: The machine's GPU.
        console: Shows progress.

    Raises:
        BuildError: A source cannot be found.
    """
    section = pair.tensorrt_llm
    if section is None or pair.drafter is None:
        raise ValueError("not a pair of engine tensorrt_llm")
    models: dict[Role, Any] = {"target": pair.target, "drafter": pair.drafter}
    texts = calibration_texts(section, base)
    calibration: dict[str, str] | str = section.calibration_dataset
    if texts is not None:
        with step(console, f"hashing {texts}"):
            calibration = fingerprint_files(texts)
    return Inputs(
        pair=pair.model_dump(mode="json", exclude={"target", "drafter"}),
        sources={role: fingerprint(source, base, console) for role, source in models.items()},
        places={
            role: str(local_directory(source.path, base))
            for role, source in models.items()
            if source.path is not None and section.quantisation(role) == "none"
        },
        calibration=calibration,
        versions=versions,
        gpu=(gpu.name, gpu.memory if section.gpu == THIS else None),
    )


def calibration_texts(section: TensorrtLlmSection, base: Path) -> Path | None:
    """The calibration's texts where a quantisation reads them from this machine; None otherwise.

    Args:
        section: What the pair file says of this engine.
        base: Where its relative paths start.
    """
    path = local_directory(section.calibration_dataset, base)
    roles: tuple[Role, Role] = ("target", "drafter")
    quantised = any(section.quantisation(role) != "none" for role in roles)
    return path if quantised and path.exists() else None
