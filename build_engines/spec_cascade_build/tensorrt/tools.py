"""The programs of TensorRT-LLM on this machine; nothing of it is imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from spec_cascade_build.errors import BuildError

BUILDER = "trtllm-build"
# Of the images nvcr.io/nvidia/tensorrt-llm/release and nvcr.io/nvidia/tritonserver:*-trtllm-python-py3.
EXAMPLES = (Path("/app/tensorrt_llm/examples"), Path("/app/examples"))
# Below, options are missing that the commands use; above, trtllm-build and the C++ executor were removed.
OLDEST, NEWEST = (0, 17), (1, 2)

_ASK_VERSION = "from importlib.metadata import version; print(version('tensorrt_llm'))"


@dataclass(frozen=True, slots=True)
class Tools:
    """What the commands of a plan start with.

    Attributes:
        builder: `trtllm-build`: its path, or its name where it is not installed.
        python: The Python that it runs under: the one that has TensorRT-LLM.
        examples: Holds the conversion scripts.
        version: Of TensorRT-LLM; None where there is none.
        trouble: Why no command could be started; empty where all is well.
    """

    builder: str
    python: str
    examples: Path
    version: str | None
    trouble: tuple[str, ...] = ()

    def converter(self, family: str) -> Path:
        """`convert_checkpoint.py` of a family; older releases have it one directory higher."""
        places = (self.examples / "models" / "core" / family, self.examples / family)
        scripts = [place / "convert_checkpoint.py" for place in places]
        return next((script for script in scripts if script.is_file()), scripts[0])

    @property
    def quantiser(self) -> Path:
        """`quantize.py`."""
        return self.examples / "quantization" / "quantize.py"

    def check(self) -> None:
        """Verify that commands can be started.

        Raises:
            BuildError: They cannot; it says all that is missing.
        """
        if self.trouble:
            raise BuildError(f"engine: tensorrt cannot be built here: {'; '.join(self.trouble)}")


def find_tools(examples: str | None, base: Path) -> Tools:
    """Look for TensorRT-LLM on this machine.

    Args:
        examples: `tensorrt.examples` of the pair file.
        base: Where relative paths start.
    """
    trouble = []
    found = shutil.which(BUILDER)
    python = interpreter_of(Path(found)) if found else sys.executable
    version = _version(python) if found else None
    if found is None:
        trouble.append(f"{BUILDER} is not on PATH: run in a container with TensorRT-LLM {supported()}")
    elif version is None:
        trouble.append(f"{python}, which runs {found}, has no package tensorrt_llm")
    elif not is_supported(version):
        trouble.append(f"TensorRT-LLM {version} is not supported: must be {supported()}")
    places = (base / Path(examples).expanduser(),) if examples else EXAMPLES
    place = next((path for path in places if path.is_dir()), None)
    if place is None:
        where = " and ".join(map(str, places))
        trouble.append(f"no conversion scripts at {where}: give tensorrt.examples, a checkout's examples directory")
    builder = str(Path(found).absolute()) if found else BUILDER
    return Tools(builder, python, (place or places[0]).absolute(), version, tuple(trouble))


def is_supported(version: str) -> bool:
    """Whether TensorRT-LLM of this version builds engines that the executor's options are known of."""
    match = re.match(r"(\d+)\.(\d+)", version)
    return match is not None and OLDEST <= (int(match[1]), int(match[2])) <= NEWEST


def supported() -> str:
    """The span of versions, as a phrase."""
    return f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}.x"


def interpreter_of(script: Path) -> str:
    """The Python that a console script names in its first line; this one where it names none."""
    with script.open("rb") as file:
        line = file.readline(256).decode("utf-8", "replace")
    words = line[2:].split() if line.startswith("#!") else []
    if words and Path(words[0]).name == "env":
        words = words[1:]
    if words and Path(words[0]).name.startswith("python"):
        return shutil.which(words[0]) or words[0]
    return sys.executable


def _version(python: str) -> str | None:
    """Of the package in that Python, which is asked for its metadata only: importing it takes a GPU."""
    try:
        asked = subprocess.run([python, "-c", _ASK_VERSION], capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return asked.stdout.strip() or None
