"""The library needs tritonclient and numpy alone, with what tritonclient's extras bring."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, packages_distributions

from packaging.requirements import Requirement

SCRIPT = """
import asyncio, importlib.abc, sys

allowed = {*sys.stdlib_module_names, *sys.argv[1].split()}

class Filter(importlib.abc.MetaPathFinder):
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return self.finder.find_spec(name, path, target) if name.partition(".")[0] in allowed else None

sys.meta_path[:] = [Filter(finder) for finder in sys.meta_path]
from spec_cascade_client import AsyncClient, Client, ClientError, Retry

async def ask(url):
    async with AsyncClient(url, retry=Retry(attempts=1)) as client:
        await client.generate("Why?")

for url in ("grpc://127.0.0.1:1", "http://127.0.0.1:1"):
    try:
        with Client(url, retry=Retry(attempts=1)) as client:
            client.generate("Why?")
    except ClientError as error:
        print(type(error).__name__)
    try:
        asyncio.run(ask(url))
    except ClientError as error:
        print(type(error).__name__)
"""


def brought_by(name: str, extras: set[str], seen: set[tuple[str, str]]) -> set[str]:
    """The import names of a distribution and of all that it requires."""
    names = {module for module, owners in packages_distributions().items() if _same(name, owners)}
    for text in distribution(name).requires or ():
        required = Requirement(text)
        wanted = any(required.marker is None or required.marker.evaluate({"extra": extra}) for extra in {"", *extras})
        if wanted and (required.name, name) not in seen:
            seen.add((required.name, name))
            names |= brought_by(required.name, required.extras, seen)
    return names


def test_the_library_works_with_tritonclient_and_numpy_alone():
    allowed = brought_by("tritonclient", {"grpc", "http"}, set()) | {"numpy", "spec_cascade_client"}
    assert allowed & {"torch", "typer", "rich", "pydantic", "transformers"} == set()
    command = [sys.executable, "-c", SCRIPT, " ".join(allowed)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["NoConnectionError"] * 4


def _same(name: str, owners: list[str]) -> bool:
    return name.lower().replace("_", "-") in {owner.lower().replace("_", "-") for owner in owners}
