"""The models of an engine directory, compiled for this machine's processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.manifest import CompiledEntry
from spec_cascade.engines.pytorch.compiled import FILE_NAME, compile_model
from spec_cascade.engines.pytorch.load import DTYPES, load_drafter, load_target
from spec_cascade.errors import EngineError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def compile_models(directory: Path, dtype: str, console: Console) -> CompiledEntry:
    """Write ``compiled.pt2`` beside each model of an engine directory that has its weights already.

    Raises:
        BuildError: There is no C++ compiler that works, or a model cannot be compiled.
    """
    try:
        target = load_target(directory / "target", DTYPES[dtype], torch.device("cpu"))
        models = {"target": target}
        if (directory / "drafter").is_dir():
            models["drafter"] = load_drafter(directory / "drafter", target)
        for whose, model in models.items():
            with step(console, f"compiling the {whose} for this machine's processor"):
                compile_model(model, directory / whose / FILE_NAME)
    except EngineError as error:
        raise BuildError(str(error)) from error
    return CompiledEntry.here()
