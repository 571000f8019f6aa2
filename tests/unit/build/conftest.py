"""A tiny target, and everything kept away from the user's caches and the network."""

from __future__ import annotations

import io
import shutil
from typing import TYPE_CHECKING

import pytest
import typer
from rich.console import Console

from spec_cascade_build.commands import register
from tests.unit.build.checkpoints import save_checkpoint, write_pair

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SPEC_CASCADE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")


@pytest.fixture(scope="session")
def _target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(directory)
    return directory


@pytest.fixture
def pair(tmp_path: Path, _target: Path) -> Path:
    """A pair file whose target, a tiny Llama with four layers, lies beside it."""
    shutil.copytree(_target, tmp_path / "target")
    return write_pair(tmp_path / "pair.yaml")


@pytest.fixture
def console() -> Console:
    """A console that nobody watches."""
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def app() -> typer.Typer:
    """The command with the verbs of the build."""
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app
