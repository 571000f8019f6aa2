"""The arrows of the house: which part may import which, read from the source of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "spec_cascade": ROOT / "plugin/spec_cascade",
    "spec_cascade_build": ROOT / "build_engines/spec_cascade_build",
    "spec_cascade_client": ROOT / "clients/spec_cascade_client",
}

# Part of the plugin -> the other parts that it may import; `errors`, `processor` and `yaml_file` are everybody's.
PLUGIN_ARROWS = {
    "rules": set(),
    "verify": {"rules"},
    "decoding": {"engines.protocol", "verify", "rules"},
    "engines": {"decoding", "verify", "rules"},
    "serving": {"engines", "decoding", "rules"},
    "bench": {"engines", "decoding", "rules"},
    # The command line: what starts everything.
    "cli": {"rules", "verify", "decoding", "engines", "serving", "bench", "commands"},
    "commands": {"rules", "verify", "decoding", "engines", "serving", "bench", "cli"},
    "errors": set(),
    "processor": set(),
    "yaml_file": set(),
    "": {"rules", "verify", "decoding", "engines"},
}
# Engines have folders of their own; of those, the world outside sees what stands beside them. The benchmark opens the
# embedded engine in ways that serving never does: without its drafter, and its models under transformers.
ENGINE_FOLDERS = {path.name for path in (PACKAGES["spec_cascade"] / "engines").iterdir() if path.is_dir()}

TRITON_SERVER = {"triton_python_backend_utils", "c_python_backend_utils", "tritonserver", "tritonclient", "pytriton"}
INFERENCE_LIBRARIES = {"tensorrt_llm", "tensorrt", "transformers"}


def module_name(path: Path, package: str) -> str:
    parts = (package, *path.relative_to(PACKAGES[package]).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str, *, is_package: bool = False) -> set[str]:
    """All modules named in the import statements of a source, wherever they stand.

    For ``from a import b`` both ``a`` and ``a.b``: b may be a module.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                ups = node.level - is_package
                above = module.split(".")[: -ups or None]
                base = ".".join([*above, base] if base else above)
            names.add(base)
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def sources(package: str) -> dict[str, set[str]]:
    """Module -> its imports, for every module of an import root."""
    modules = {}
    for path in sorted(PACKAGES[package].rglob("*.py")):
        name = module_name(path, package)
        modules[name] = imports(path.read_text(encoding="utf-8"), name, is_package=path.stem == "__init__")
    return modules


def top(name: str) -> str:
    return name.partition(".")[0]


def segment(name: str, index: int) -> str:
    return [*name.split("."), "", ""][index]


def part(name: str) -> str:
    """The plugin's part that a module belongs to."""
    return segment(name, 1)


def plugin_violations(modules: dict[str, set[str]]) -> list[str]:
    found = []
    for module, imported in modules.items():
        here = part(module)
        for name in sorted(imported):
            if top(name) != "spec_cascade":
                continue
            there = part(name)
            # `spec_cascade` itself: the name in `from spec_cascade import x` is judged by x.
            if there in (here, "", "errors", "processor", "yaml_file"):
                continue
            allowed = PLUGIN_ARROWS[here]
            if there not in allowed and not any(name.startswith(f"spec_cascade.{a}") for a in allowed if "." in a):
                found.append(f"{module} imports {name}")
            elif here not in ("engines", "bench", "") and there == "engines" and segment(name, 2) in ENGINE_FOLDERS:
                found.append(f"{module} imports an engine's inside: {name}")
    return found


def test_every_part_of_the_plugin_has_its_place_in_the_arrows():
    assert {part(module) for module in sources("spec_cascade")} <= set(PLUGIN_ARROWS)


def test_the_parts_of_the_plugin_import_along_the_arrows():
    assert plugin_violations(sources("spec_cascade")) == []


@pytest.mark.parametrize("home", ["rules", "verify"])
def test_rules_and_verifier_know_no_server_and_no_inference_library(home):
    for module, imported in sources("spec_cascade").items():
        if part(module) == home:
            assert {top(name) for name in imported} & (TRITON_SERVER | INFERENCE_LIBRARIES) == set(), module


def test_the_triton_server_is_known_to_serving_alone():
    for module, imported in sources("spec_cascade").items():
        if part(module) != "serving":
            assert {top(name) for name in imported} & TRITON_SERVER == set(), module


def test_the_plugin_imports_neither_the_build_nor_the_client():
    for module, imported in sources("spec_cascade").items():
        assert {top(name) for name in imported} & {"spec_cascade_build", "spec_cascade_client"} == set(), module


def test_the_client_imports_neither_of_the_others():
    for module, imported in sources("spec_cascade_client").items():
        assert {top(name) for name in imported} & {"spec_cascade", "spec_cascade_build"} == set(), module


CONSOLES = {f"spec_cascade_client.{name}" for name in ("chat", "commands", "console", "stats")}


def test_the_client_library_needs_tritonclient_and_numpy_alone():
    allowed = {*sys.stdlib_module_names, "spec_cascade_client", "numpy", "tritonclient"}
    for module, imported in sources("spec_cascade_client").items():
        extra = {top(name) for name in imported} - allowed
        # grpc and aiohttp are what tritonclient[grpc,http] stands on; typing_extensions is for the type checker's eyes.
        assert extra <= ({"typer", "rich"} if module in CONSOLES else {"grpc", "aiohttp", "typing_extensions"}), module


def test_the_client_library_does_not_import_its_console():
    for module, imported in sources("spec_cascade_client").items():
        if module not in CONSOLES:
            assert imported & CONSOLES == set(), module


def test_the_build_asks_the_client_from_its_demo_alone():
    for module, imported in sources("spec_cascade_build").items():
        if not module.startswith("spec_cascade_build.demo"):
            assert "spec_cascade_client" not in {top(name) for name in imported}, module


def test_nothing_but_the_command_line_imports_the_demo():
    for package in PACKAGES:
        for module, imported in sources(package).items():
            if not module.startswith("spec_cascade_build.demo") and module != "spec_cascade_build.commands":
                assert not any(name.startswith("spec_cascade_build.demo") for name in imported), module


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spec_cascade.rules.x", "from spec_cascade.verify import verify"),
        ("spec_cascade.rules.x", "from spec_cascade import verify"),
        ("spec_cascade.rules.x", "from ..verify.draws import uniform"),
        ("spec_cascade.verify.x", "import spec_cascade.decoding.request"),
        ("spec_cascade.decoding.x", "def f():\n    from spec_cascade.engines.pytorch import engine"),
        ("spec_cascade.decoding.x", "from spec_cascade.engines import open_engine"),
        ("spec_cascade.serving.x", "from spec_cascade.engines.pytorch.engine import PytorchEngine"),
        ("spec_cascade.engines.pytorch.x", "from spec_cascade.serving import server"),
    ],
)
def test_an_import_against_the_arrows_is_seen(module, source):
    assert plugin_violations({module: imports(source, module)})


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("spec_cascade.verify.x", "from spec_cascade.rules import Rows"),
        ("spec_cascade.decoding.x", "from spec_cascade.engines.protocol import EngineLimits"),
        ("spec_cascade.serving.x", "from spec_cascade.engines import open_engine"),
        ("spec_cascade.engines.pytorch.x", "from spec_cascade.verify import verify"),
    ],
)
def test_an_import_along_the_arrows_is_let_pass(module, source):
    assert plugin_violations({module: imports(source, module)}) == []
