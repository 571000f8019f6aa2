"""Finds a `tritonserver` and lays out what it needs to run Python models in this interpreter's environment.

Two kinds of installation are known. A `tritonserver` on PATH (NVIDIA's containers) knows where its backends are. The
one inside the wheel `nvidia-pytriton` ships the Python backend without its stub, and one stub per Python version
beside it: the two are put together in a private directory. The wheel is located, not imported: importing it starts
loggers and loads libraries that are no business of a launcher.

A stub embeds Python. It finds its environment as the `python3` command would: the first one on PATH, with the
`pyvenv.cfg` beside it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.serving.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
STUB = "triton_python_backend_stub"
LIBPYTHON = f"libpython{PYTHON_VERSION}.so.1.0"


@dataclass(frozen=True, slots=True)
class Installation:
    """A `tritonserver` that can be run.

    Attributes:
        executable: The server.
        backend_directory: Where its backends are; None leaves the server's own default.
        library_path: Directories that the dynamic linker must search.
    """

    executable: Path
    backend_directory: Path | None
    library_path: tuple[Path, ...]

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """Environment variables under which server and stubs run in this interpreter's environment."""
        environment = dict(base)
        environment.pop("PYTHONHOME", None)
        environment["PATH"] = _joined([interpreter_directory()], base.get("PATH"))
        environment["LD_LIBRARY_PATH"] = _joined(self.library_path, base.get("LD_LIBRARY_PATH"))
        return environment


def find_installation(private_directory: Path) -> Installation:
    """Find the server: the one on PATH, else the one in the wheel `nvidia-pytriton`.

    Args:
        private_directory: An empty directory for the layout; must outlive the server.

    Raises:
        LaunchError: There is no server, no stub for this Python, or no shared `libpython`.
    """
    on_path = shutil.which("tritonserver")
    if on_path is not None:
        # Its stub was built for the Python of its own system, which the linker finds without help.
        return Installation(Path(on_path), None, ())
    package = _wheel_package()
    if package is None:
        raise LaunchError(
            "no tritonserver found: it is neither on PATH nor in this Python environment; "
            "install it with: pip install 'spec-cascade[server]'"
        )
    return Installation(
        package / "tritonserver" / "bin" / "tritonserver",
        _laid_out_backend(package, private_directory),
        (libpython_directory(), package.parent / "nvidia_pytriton.libs"),
    )


def libpython_directory(candidates: Iterable[Path] | None = None) -> Path:
    """The directory of the running interpreter's shared library, which the stub loads.

    Args:
        candidates: Directories to search; by default the interpreter's own, then those that the dynamic linker knows.

    Raises:
        LaunchError: No directory has it.
    """
    searched = list(_library_directories() if candidates is None else candidates)
    for directory in searched:
        if (directory / LIBPYTHON).exists():
            return directory
    raise LaunchError(
        f"{LIBPYTHON} not found: Triton's Python backend embeds Python {PYTHON_VERSION} and needs its shared library. "
        f"On Debian and Ubuntu: apt-get install libpython{PYTHON_VERSION}; "
        "or use a Python that was built with --enable-shared"
    )


def interpreter_directory() -> Path:
    """The directory whose `python3` is the running environment's.

    Raises:
        LaunchError: It has no `python3`, or another Python's.
    """
    directory = Path(sys.prefix) / "bin"
    command = directory / "python3"
    if not command.exists() or command.resolve() != Path(sys.executable).resolve():
        raise LaunchError(f"{command} is not the running Python: run spec-cascade from a virtual environment")
    return directory


def _wheel_package() -> Path | None:
    spec = find_spec("pytriton")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        if (Path(location) / "tritonserver" / "bin" / "tritonserver").is_file():
            return Path(location)
    return None


def _laid_out_backend(package: Path, private_directory: Path) -> Path:
    """Put the Python backend and the stub of this Python together; return the directory of backends."""
    parts = package / "tritonserver"
    stub = parts / "python_backend_stubs" / PYTHON_VERSION / STUB
    if not stub.is_file():
        versions = sorted(path.name for path in (parts / "python_backend_stubs").glob("*"))
        raise LaunchError(
            f"nvidia-pytriton has no Python backend for Python {PYTHON_VERSION}, only for {', '.join(versions)}"
        )
    backend = private_directory / "backends" / "python"
    backend.mkdir(parents=True)
    for file in (parts / "backends" / "python").iterdir():
        if file.is_file():
            (backend / file.name).symlink_to(file)
    (backend / STUB).symlink_to(stub)
    return backend.parent


def _library_directories() -> list[Path]:
    configured = sysconfig.get_config_var("LIBDIR")
    directories = [Path(configured)] if configured else []
    # Relocated interpreters keep the LIBDIR of the machine that built them.
    directories.append(Path(sys.base_prefix) / "lib")
    directories += [Path(entry) for entry in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if entry]
    return directories + _linker_directories()


def _linker_directories() -> list[Path]:
    """Where the dynamic linker's cache has the library."""
    ldconfig = shutil.which("ldconfig", path=_joined([Path("/sbin"), Path("/usr/sbin")], os.environ.get("PATH")))
    if ldconfig is None:
        return []
    listing = subprocess.run([ldconfig, "-p"], capture_output=True, text=True, check=False).stdout
    lines = [line.rpartition("=> ") for line in listing.splitlines() if line.strip().startswith(LIBPYTHON)]
    return [Path(path.strip()).parent for _, arrow, path in lines if arrow]


def _joined(first: Iterable[Path], rest: str | None) -> str:
    return os.pathsep.join([*(str(path) for path in first), *([rest] if rest else [])])
