"""A few seconds of the server's soak; the ten minutes are `python -m tests.soak.server`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.soak import server as soak

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

SECONDS = 6


def test_a_short_soak_of_a_server_leaves_nothing_behind(
    tiny_engine_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In its first seconds a server's memory still fills.
    monkeypatch.setattr(soak, "GROWTH_LIMIT_MIB", 1000.0)
    file = tmp_path / "soak.json"
    arguments = [
        "--minutes",
        str(SECONDS / 60),
        "--clients",
        "6",
        "--engine",
        str(tiny_engine_dir),
        "--json",
        str(file),
    ]
    status = soak.main(arguments)
    figures = json.loads(file.read_text())
    assert figures["broken"] == []
    assert status == 0
    assert figures["ended"]["length"] > 0
    assert len(figures["samples"]) == 8
