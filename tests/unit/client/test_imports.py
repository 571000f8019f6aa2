"""The library needs tritonclient and numpy alone."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    names = {"torch", "transformers", "typer", "rich", "pydantic", "yaml", "safetensors", "aiohttp", "requests",
             "spec_cascade", "spec_cascade_build"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Blocked())
from spec_cascade_client import Client, ClientError
for url in ("grpc://127.0.0.1:1", "http://127.0.0.1:1"):
    with Client(url) as client:
        try:
            client.generate("Why?")
        except ClientError as error:
            print(type(error).__name__)
"""


def test_the_library_works_with_tritonclient_and_numpy_alone():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["NoConnectionError", "NoConnectionError"]
