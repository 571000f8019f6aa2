"""The models of an engine directory, compiled for this machine's processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.manifest import CompiledEntry
from spec_cascade.engines.pytorch.compiled import FILE_NAME, INT8_FILE_NAME, compile_model
from spec_cascade.engines.pytorch.int8 import int8_model
from spec_cascade.engines.pytorch.load import DTYPES, load_drafter, load_target
from spec_cascade.errors import EngineError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import step

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


def compile_models(directory: Path, dtype: str, console: Console, *, int8_drafter: bool) -> CompiledEntry:
    """Write ``compiled.pt2`` beside each model of an engine directory that has its weights already.

    Args:
        directory: The engine directory.
        dtype: Of the models.
        console: Shows what is being done.
        int8_drafter: Compile the drafter with eight-bit weights, too, for forwards of few tokens.

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
        if int8_drafter and "drafter" in models:
            with step(console, "compiling the drafter with eight-bit weights"):
                compile_model(int8_model(models["drafter"]), directory / "drafter" / INT8_FILE_NAME)
    except EngineError as error:
        raise BuildError(str(error)) from error
    return CompiledEntry.here()
