"""What the makings of drafters share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.build.checkpoints import save_checkpoint


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEC_CASCADE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "target")
    return tmp_path
