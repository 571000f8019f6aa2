"""What a worker of TensorRT-LLM does when its interpreter starts: wait for one module, and activate right behind it.

Workers of an engine of several GPUs are started by MPI as fresh interpreters, to which nothing that was patched in
the parent travels; variables named ``TLLM_*`` do. The line in `hook`'s ``.pth`` file calls `install` where this
module's variable is set. Nothing here imports torch, TensorRT-LLM or MPI: that is not ours to do first.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

VARIABLE = "TLLM_SPEC_CASCADE"
"""Holds `SamplerSettings` as JSON. Only variables with this prefix are sure to reach the workers."""
CREATOR = "tensorrt_llm._torch.pyexecutor.py_executor_creator"
"""The module whose function makes the samplers."""


def install() -> None:
    """Activate as soon as TensorRT-LLM's executor can be made in this process. Idempotent."""
    if CREATOR in sys.modules:
        activate_from_environment()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def activate_from_environment() -> None:
    """Do what the variable says, and nothing where it is not set.

    Raises:
        EngineError: See `injection.activate`; or the variable holds something else.
    """
    text = os.environ.get(VARIABLE)
    if not text:
        return
    from spec_cascade.engines.tensorrt_llm.injection import activate

    activate(settings_from(text))


def settings_from(text: str) -> SamplerSettings:
    """Read what the variable holds.

    Raises:
        EngineError: It holds no settings. It does not tell what else: a key may be part of that.
    """
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
    from spec_cascade.errors import ConfigError, EngineError

    try:
        return SamplerSettings.from_json(text)
    except ConfigError as error:
        raise EngineError(f"{VARIABLE}: {error.field} is not allowed as it is: must be {error.allowed}") from None


class _Waiting:
    """A finder that finds nothing, and has one module followed by the activation.

    Where that fails, so does the import: TensorRT-LLM's worker then tells its parent why, and a second try fails again.
    """

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != CREATOR:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _follow(spec.loader)
                return spec
        return None


def _follow(loader: Loader) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        activate_from_environment()

    loader.exec_module = exec_module  # type: ignore[method-assign]
