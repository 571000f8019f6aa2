"""Pair files of `engine: tensorrt`, beside two tiny checkpoints or of two models of the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.unit.build.checkpoints import write_pair

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB: dict[str, Any] = {
    "target": {"hub": "org/target", "revision": COMMIT},
    "drafter": {"hub": "org/drafter", "revision": COMMIT},
}
DEFAULTS = {"max_seq_len": 128, "max_batch_size": 4, "draft_length": 3, "max_draft_length": 5}


def pair_file(root: Path, defaults: dict[str, Any] | None = None, **fields: Any) -> Path:
    """Write ``pair.yaml``; ``defaults`` come on top of those of all tests."""
    return write_pair(
        root / "pair.yaml",
        **{
            "engine": "tensorrt",
            "dtype": "bfloat16",
            "drafter": {"path": "drafter"},
            "tensorrt": {"examples": "examples", "max_num_tokens": 512},
            "defaults": DEFAULTS | (defaults or {}),
            **fields,
        },
    )


def move_to_hub_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Have both checkpoints be what was once fetched from the hub, which is out of reach; their places, by role."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(root / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    places = {}
    for role in ("target", "drafter"):
        places[role] = root / "hub" / f"models--org--{role}" / "snapshots" / COMMIT
        places[role].parent.mkdir(parents=True)
        shutil.move(root / role, places[role])
    return places


def play_hub(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have both checkpoints be on a hub that is played; the directory that takes what is fetched, by role."""
    fetched = root / "fetched"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(fetched))
    (root / "remote").mkdir()
    for role in ("target", "drafter"):
        (root / role).rename(root / "remote" / role)

    def snapshot_download(hub: str, *, revision: str, allow_patterns: Sequence[str]) -> str:
        assert revision == COMMIT
        place = fetched / f"models--{hub.replace('/', '--')}" / "snapshots" / COMMIT
        place.mkdir(parents=True, exist_ok=True)
        for pattern in allow_patterns:
            for path in (root / "remote" / Path(hub).name).glob(pattern):
                shutil.copy(path, place)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return fetched
