"""Plays a Dockerfile without docker: its commands are run one after the other, in directories that stand for stages.

The environment of the base image is one of links to what the tests run with, less what NVIDIA's image does not have,
and with what it has and no test environment has: metadata of TensorRT-LLM. Absolute paths are looked up in a stage's
own directory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.unit.docker.dockerfile import Instruction, Stage, mount
from tests.unit.docker.wheels import write_installed

if TYPE_CHECKING:
    from collections.abc import Mapping

# Paths that the Dockerfile names; what else begins with a slash is part of something else.
_PATHS = re.compile(r"(?<![\w./:])/(?=(mnt|opt|build|setuptools|wheels|engines|home)\b)")
_NOT_IN_THE_IMAGE = re.compile(
    r"(?i)(spec_cascade|__editable__|tritonclient|pytriton|nvidia_pytriton|matplotlib|pytest)"
)
IN_THE_IMAGE = {"tensorrt_llm": "1.2.1", "nvidia-modelopt": "0.37.0", "nvidia-ml-py": "13.580.82"}


@dataclass
class Player:
    """Plays the stages of a Dockerfile.

    Attributes:
        context: What docker would have been sent.
        place: Where the directories of stages go.
        interpreter: The environment of the base image.
        roots: The directory of each stage, by its name; the last one's name is empty.
        said: What was run, and what it printed.
    """

    context: Path
    place: Path
    interpreter: Path
    roots: dict[str, Path] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def play(self, stage: Stage) -> Path:
        """Play a stage and return its directory."""
        root = self.roots[stage.name] = self.place / f"stage-{stage.name or 'image'}"
        here = root
        root.mkdir()
        for instruction in stage.instructions:
            if instruction.keyword == "WORKDIR":
                here = root / instruction.text.lstrip("/")
                here.mkdir(parents=True, exist_ok=True)
            elif instruction.keyword == "COPY":
                self._copy(instruction, here)
            elif instruction.keyword == "RUN":
                self._run(instruction, root, here)
        return root

    def environment(self, root: Path) -> dict[str, str]:
        """Of every process in a stage."""
        known = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")}
        return known | {
            "PATH": os.pathsep.join(
                [str(self.interpreter / "bin"), str(root / "opt/tritonserver/bin"), "/usr/bin:/bin"]
            ),
            "HOME": str(root),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONNOUSERSITE": "1",
        }

    def in_stage(self, text: str, root: Path) -> str:
        """A command with the paths of a stage."""
        return _PATHS.sub(f"{root}/", text)

    def _copy(self, copy: Instruction, here: Path) -> None:
        *sources, target = copy.text.split()
        for source in sources:
            if (self.context / source).is_dir():
                shutil.copytree(self.context / source, here / target, dirs_exist_ok=True)
            else:
                shutil.copy2(self.context / source, here / target)

    def _run(self, run: Instruction, root: Path, here: Path) -> None:
        for fields in (mount(value) for name, value in run.flags if name == "mount"):
            source = self.roots[fields["from"]] if "from" in fields else self.context
            target = root / fields["target"].lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(source / fields["source"].lstrip("/"))
        text = self.in_stage(run.text, root)
        # Who is not root gives files to nobody else.
        text = text.replace("--owner=1000", f"--owner={os.getuid()}").replace("--group=1000", f"--group={os.getgid()}")
        done = subprocess.run(
            ["/bin/sh", "-c", text],
            cwd=here,
            env=self.environment(root),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        self.said += [f"$ {text}", done.stdout]
        if done.returncode:
            raise RuntimeError("\n".join([*self.said, f"status {done.returncode}"]))


def base_environment(place: Path, extra: Mapping[str, str] = IN_THE_IMAGE) -> Path:
    """An environment of Python as the base image has it; returns its directory."""
    venv.create(place, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(place), "platbase": str(place)}))
    for directory in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        for entry in sorted(directory.iterdir()):
            link = site / entry.name
            if entry.suffix != ".pth" and not _NOT_IN_THE_IMAGE.match(entry.name) and not link.exists():
                link.symlink_to(entry)
    for name, version in extra.items():
        write_installed(site, name, version)
    return place
