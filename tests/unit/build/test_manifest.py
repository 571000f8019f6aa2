"""The manifest: what it says survives the disk, and what is wrong with a directory is said in one sentence."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.engines.manifest import (
    FILE_NAME,
    FORMAT,
    CompiledEntry,
    DrafterEntry,
    EngineDefaults,
    FileEntry,
    Manifest,
    TargetEntry,
    Vocabulary,
)
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def engine_dir(tmp_path: Path) -> Path:
    """A directory with two files and their manifest."""
    for name, content in {"target/weights": b"w" * 100, "tokenizer/pieces": b"p" * 10}.items():
        path = tmp_path / name
        path.parent.mkdir()
        path.write_bytes(content)
    files = {name: FileEntry.of(tmp_path / name) for name in ("target/weights", "tokenizer/pieces")}
    manifest(files).write(tmp_path)
    return tmp_path


def manifest(files: dict[str, FileEntry]) -> Manifest:
    return Manifest(
        format=FORMAT,
        name="tiny",
        engine="pytorch",
        target=TargetEntry(dtype="bfloat16"),
        drafter=DrafterEntry(kind="prompt_lookup", min_ngram=1, max_ngram=3),
        compiled=CompiledEntry(processor="x86_64 avx2", torch="2"),
        defaults=EngineDefaults(
            rule="strict",
            draft_length=4,
            max_draft_length=8,
            fallback=True,
            draft_mode="sampled",
            draft_confidence=0.0,
            max_batch_size=8,
            max_seq_len=128,
            max_queue_size=16,
            prefill_chunk=64,
        ),
        vocabulary=Vocabulary(
            vocab_size=300, target_logits=320, drafter_logits=None, eos_token_ids=(2, 0), tokenizer_hash="ab"
        ),
        files=files,
        versions={"torch": "2"},
        key="k",
    )


def test_what_is_written_is_what_is_read(engine_dir: Path) -> None:
    read = Manifest.read(engine_dir)
    assert read == manifest(read.files)
    assert read.vocabulary.eos_token_ids == (2, 0)
    read.check(engine_dir)


def test_check_tells_how_many_bytes_it_hashed(engine_dir: Path) -> None:
    sizes: list[int] = []
    Manifest.read(engine_dir).check(engine_dir, sizes.append)
    assert sum(sizes) == 110


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="nowhere: no such engine directory"):
        Manifest.read(tmp_path / "nowhere")


def test_a_directory_without_a_manifest_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"not a finished engine .*run spec-cascade build"):
        Manifest.read(tmp_path)


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def _with(section: str | None, name: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        (data if section is None else data[section])[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(None, "format", 1), "format 1 is not 2"),
        (_without("format"), "manifest has no field 'format'"),
        (_without("key"), "manifest has no field 'key'"),
        (_with(None, "drafters", {}), "unknown field 'drafters' (did you mean 'drafter'?)"),
        (_with("defaults", "draft_lenght", 4), "manifest.defaults has an unknown field 'draft_lenght'"),
        (_with("defaults", "max_batch_size", "8"), "manifest.defaults.max_batch_size is '8', not of type int"),
        (_with("defaults", "max_batch_size", True), "manifest.defaults.max_batch_size is True, not of type int"),
        (_with("defaults", "draft_mode", "Argmax"), "manifest.defaults.draft_mode is 'Argmax', not sampled or argmax"),
        (_with("defaults", "draft_confidence", 1.0), "manifest.defaults.draft_confidence is 1.0, not in [0, 1)"),
        (_with("defaults", "draft_confidence", math.nan), "manifest.defaults.draft_confidence is nan, not in [0, 1)"),
        (_with("defaults", "draft_length", -2), "manifest.defaults.draft_length is -2, not in [-1, 8]"),
        (_with("defaults", "draft_length", 9), "manifest.defaults.draft_length is 9, not in [-1, 8]"),
        (_with("defaults", "max_draft_length", -1), "manifest.defaults.max_draft_length is -1, not in [0, inf)"),
        (_with("vocabulary", "eos_token_ids", [2, None]), "manifest.vocabulary.eos_token_ids[1] is None"),
        (_with("vocabulary", "drafter_logits", 1.5), "manifest.vocabulary.drafter_logits is 1.5"),
        (_with("files", "a", {"sha256": "x"}), "manifest.files['a'] has no field 'size'"),
        (_with(None, "files", []), "manifest.files is []"),
        (_with(None, "target", "bfloat16"), "manifest.target is not an object"),
    ],
)
def test_a_wrong_field_is_named(engine_dir: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path = engine_dir / FILE_NAME
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(EngineError) as caught:
        Manifest.read(engine_dir)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_unreadable_json_is_said_to_be_so(engine_dir: Path, content: bytes) -> None:
    (engine_dir / FILE_NAME).write_bytes(content)
    with pytest.raises(EngineError, match="cannot be read"):
        Manifest.read(engine_dir)


def test_json_that_is_no_object_is_refused(engine_dir: Path) -> None:
    (engine_dir / FILE_NAME).write_text("[1]")
    with pytest.raises(EngineError, match="manifest is not an object"):
        Manifest.read(engine_dir)


def test_a_missing_file_is_named(engine_dir: Path) -> None:
    (engine_dir / "tokenizer/pieces").unlink()
    with pytest.raises(EngineError, match="tokenizer/pieces is missing"):
        Manifest.read(engine_dir).check(engine_dir)


def test_a_cut_file_is_named_with_its_size(engine_dir: Path) -> None:
    (engine_dir / "target/weights").write_bytes(b"w" * 99)
    with pytest.raises(EngineError, match="target/weights has 99 bytes instead of 100"):
        Manifest.read(engine_dir).check(engine_dir)


def test_one_changed_byte_is_found_and_the_first_bad_file_is_named(engine_dir: Path) -> None:
    (engine_dir / "target/weights").write_bytes(b"w" * 50 + b"v" + b"w" * 49)
    (engine_dir / "tokenizer/pieces").write_bytes(b"q" * 10)
    with pytest.raises(EngineError, match="target/weights is damaged"):
        Manifest.read(engine_dir).check(engine_dir)


def test_a_file_that_the_manifest_does_not_know_is_no_damage(engine_dir: Path) -> None:
    (engine_dir / "notes.txt").write_text("mine")
    Manifest.read(engine_dir).check(engine_dir)


def test_manifests_of_different_content_differ(engine_dir: Path) -> None:
    read = Manifest.read(engine_dir)
    assert replace(read, key="other") != read


def test_reading_a_manifest_loads_nothing_heavy(engine_dir: Path) -> None:
    code = (
        "import sys; from spec_cascade.engines.manifest import Manifest; Manifest.read(sys.argv[1]).check(sys.argv[1]);"
        "print(sorted({'torch', 'transformers', 'pydantic', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(engine_dir)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
