"""The model repository: where it is."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from spec_cascade.serving.errors import LaunchError

ENGINE_DIR_VARIABLE = "SPEC_CASCADE_ENGINE_DIR"
POLICY_VARIABLE = "SPEC_CASCADE_POLICY"
REPOSITORY_VARIABLE = "SPEC_CASCADE_MODEL_REPOSITORY"
_NAME = "triton_model_repo"


def find_model_repository(directory: Path | None = None) -> Path:
    """The model repository to serve.

    In this order: ``directory``; the environment variable SPEC_CASCADE_MODEL_REPOSITORY; the checkout that this module
    is part of; ``share/spec-cascade`` of the environment that the package is installed in.

    Raises:
        LaunchError: There is none.
    """
    named = directory or os.environ.get(REPOSITORY_VARIABLE)
    places = [Path(named)] if named else [_in_checkout(), _installed()]
    for place in places:
        if (place / "ensemble" / "config.pbtxt").is_file():
            return place.resolve()
    raise LaunchError(f"no model repository in {' or '.join(str(place) for place in places)}")


def _in_checkout() -> Path:
    return Path(__file__).resolve().parents[3] / _NAME


def _installed() -> Path:
    return Path(sysconfig.get_path("data")) / "share" / "spec-cascade" / _NAME
