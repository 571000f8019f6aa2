"""The start-up hook: one line in the site directory of the workers' Python environment.

Every interpreter of that environment executes it. Without the variable it reads one variable and is done. With it, it
imports `startup`; should that fail, TensorRT-LLM is made impossible to import: a worker that verified by its own rules
and looked like ours would be worse than none.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

from spec_cascade.engines.tensorrt_llm import startup
from spec_cascade.errors import EngineError

FILE_NAME = "spec_cascade_trtllm.pth"
_GUARDED = (
    f"import sys\\ntry:\\n from {startup.__name__} import install\\n install()"
    "\\nexcept BaseException:\\n sys.modules['tensorrt_llm'] = None\\n raise"
)
LINE = f'import os; os.environ.get("{startup.VARIABLE}") and exec("{_GUARDED}")\n'


def hook_path(site_directory: Path | str | None = None) -> Path:
    """Where the hook is, or would be; without a directory, in that of the running interpreter."""
    return Path(site_directory or sysconfig.get_path("purelib")) / FILE_NAME


def hook_state(site_directory: Path | str | None = None) -> str:
    """``installed``, ``absent``, or ``outdated``: written by another version, or by hand."""
    path = hook_path(site_directory)
    if not path.is_file():
        return "absent"
    return "installed" if path.read_text(encoding="utf-8") == LINE else "outdated"


def install_hook(site_directory: Path | str | None = None) -> Path:
    """Write the hook. Idempotent.

    Raises:
        EngineError: The directory is missing or cannot be written to.
    """
    path = hook_path(site_directory)
    unfinished = path.with_suffix(".part")
    try:
        unfinished.write_text(LINE, encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        raise EngineError(f"the start-up hook cannot be written: {error}") from None
    return path


def remove_hook(site_directory: Path | str | None = None) -> bool:
    """Remove the hook; says whether there was one.

    Raises:
        EngineError: It cannot be removed.
    """
    path = hook_path(site_directory)
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise EngineError(f"the start-up hook cannot be removed: {error}") from None
    return True
