"""Sources: directories and the hub's cache are read, pickle files are not, and content identifies them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import Source
from spec_cascade_build.sources import fetched, fingerprint, fingerprint_files
from tests.unit.build.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "model", layers=1)
    return tmp_path / "model"


def test_a_relative_path_starts_at_the_pair_file(checkpoint: Path, console: Console) -> None:
    with fetched(Source(path="model"), checkpoint.parent, console) as found:
        assert found.directory == checkpoint
        assert found.gguf is None


def test_content_and_not_place_identifies_a_directory(checkpoint: Path, tmp_path: Path, console: Console) -> None:
    before = fingerprint(Source(path="model"), tmp_path, console)
    shutil.copytree(checkpoint, tmp_path / "copy")
    assert fingerprint(Source(path=str(tmp_path / "copy")), tmp_path, console) == before
    (checkpoint / "generation_config.json").write_text("{}")
    assert fingerprint(Source(path="model"), tmp_path, console) != before


@pytest.mark.parametrize("name", ["hf_quant_config.json", "added_tokens.json"])
def test_what_says_how_it_is_read_counts(checkpoint: Path, tmp_path: Path, console: Console, name: str) -> None:
    before = fingerprint(Source(path="model"), tmp_path, console)
    (checkpoint / name).write_text("{}")
    assert fingerprint(Source(path="model"), tmp_path, console) != before


def test_all_files_of_a_directory_count_by_their_places(tmp_path: Path) -> None:
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "more" / "a.txt").write_text("a")
    (tmp_path / "texts" / "b.txt").write_text("b")
    found = fingerprint_files(tmp_path / "texts")
    assert list(found) == ["b.txt", "more/a.txt"]
    assert fingerprint_files(tmp_path / "texts" / "b.txt") == {"b.txt": found["b.txt"]}


def test_files_that_are_not_read_do_not_count(checkpoint: Path, tmp_path: Path, console: Console) -> None:
    before = fingerprint(Source(path="model"), tmp_path, console)
    (checkpoint / "README.md").write_text("hello")
    assert fingerprint(Source(path="model"), tmp_path, console) == before


def test_a_missing_path_is_named(tmp_path: Path, console: Console) -> None:
    for use in (fingerprint, lambda *a: fetched(*a).__enter__()):
        with pytest.raises(BuildError, match="nowhere is neither a checkpoint directory nor a"):
            use(Source(path="nowhere"), tmp_path, console)


def test_pickle_files_are_refused(checkpoint: Path, tmp_path: Path, console: Console) -> None:
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with (
        pytest.raises(BuildError, match=r"only pytorch_model\.bin, a pickle file.* convert it to safetensors"),
        fetched(Source(path="model"), tmp_path, console),
    ):
        pass


def test_a_directory_without_a_configuration_is_refused(checkpoint: Path, tmp_path: Path, console: Console) -> None:
    (checkpoint / "config.json").unlink()
    with pytest.raises(BuildError, match=r"no config\.json"), fetched(Source(path="model"), tmp_path, console):
        pass


@pytest.fixture
def hub(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache on disk, holding one model; the hub itself cannot be reached."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    shutil.copytree(checkpoint, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_model_in_the_cache_is_used(hub: Path, tmp_path: Path, console: Console) -> None:
    with fetched(Source(hub="org/model"), tmp_path, console) as found:
        assert (found.directory / "config.json").is_file()
    assert fingerprint(Source(hub="org/model"), tmp_path, console) == {"hub": "org/model", "commit": COMMIT}


def test_a_pinned_hub_model_is_identified_without_asking(tmp_path: Path, console: Console) -> None:
    source = Source(hub="org/unknown", revision=COMMIT)
    assert fingerprint(source, tmp_path, console) == {"hub": "org/unknown", "commit": COMMIT}


def test_a_hub_model_that_cannot_be_had_is_named_in_one_line(hub: Path, tmp_path: Path, console: Console) -> None:
    with pytest.raises(BuildError, match="org/other is not in the local cache") as caught:
        fingerprint(Source(hub="org/other"), tmp_path, console)
    assert "\n" not in str(caught.value)
