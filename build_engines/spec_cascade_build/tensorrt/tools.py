"""The programs of TensorRT-LLM on this machine; nothing of it is imported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from spec_cascade.engines.tensorrt_llm.gpus import present_gpus
from spec_cascade_build.errors import BuildError

BUILDER = "trtllm-build"
# Of the images nvcr.io/nvidia/tensorrt-llm/release and nvcr.io/nvidia/tritonserver:*-trtllm-python-py3.
EXAMPLES = (Path("/app/tensorrt_llm/examples"), Path("/app/examples"))
# Below, options are missing that the commands use; above, trtllm-build and the C++ executor were removed.
OLDEST, NEWEST = (0, 17), (1, 2)

# Prints a line for each package: its version, or nothing.
_ASK_VERSIONS = """
import sys
from importlib.metadata import PackageNotFoundError, version
for name in sys.argv[1:]:
    try:
        print(version(name))
    except PackageNotFoundError:
        print()
"""


@dataclass(frozen=True, slots=True)
class Tools:
    """What the commands of a plan start with.

    Attributes:
        builder: `trtllm-build`: its path, or its name where it is not installed.
        python: The Python that it runs under: the one that has TensorRT-LLM.
        examples: Holds the conversion scripts.
        version: Of TensorRT-LLM; None where there is none.
        modelopt: Version of ModelOpt, which calibrates; None where there is none.
        gpu: The first GPU of this machine, with its compute capability: engines run on such a one only. None where
            there is none.
        trouble: Why no command could be started; empty where all is well.
    """

    builder: str
    python: str
    examples: Path
    version: str | None
    modelopt: str | None = None
    gpu: str | None = None
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
            missing = "; ".join(self.trouble)
            raise BuildError(
                f"engine: tensorrt cannot be built here: {missing}. "
                "spec-cascade build --check and --dry-run work without"
            )


def find_tools(examples: str | None, base: Path) -> Tools:
    """Look for TensorRT-LLM on this machine.

    Args:
        examples: `tensorrt.examples` of the pair file.
        base: Where relative paths start.
    """
    trouble = []
    found = shutil.which(BUILDER)
    python = interpreter_of(Path(found)) if found else sys.executable
    version, modelopt = _versions(python, "tensorrt_llm", "nvidia-modelopt") if found else (None, None)
    gpu = _gpu()
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
    if gpu is None:
        trouble.append(f"it has no GPU{'' if find_spec('pynvml') else ' (pynvml is not installed, which finds it)'}")
    builder = str(Path(found).absolute()) if found else BUILDER
    return Tools(builder, python, (place or places[0]).absolute(), version, modelopt, gpu, tuple(trouble))


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


def _versions(python: str, *names: str) -> list[str | None]:
    """Of packages in that Python, which is asked for their metadata only: importing them takes a GPU."""
    command = [python, "-c", _ASK_VERSIONS, *names]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return [None] * len(names)
    lines = asked.stdout.splitlines()
    return [line or None for line in lines] if len(lines) == len(names) else [None] * len(names)


def _gpu() -> str | None:
    gpu = next(iter(present_gpus()), None)
    return None if gpu is None else f"{gpu.name}, compute capability {'.'.join(map(str, gpu.capability))}"
