"""An output directory appears whole or not at all, whatever happens to the build and whoever else builds."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from spec_cascade_build.directory import check_replaceable, replaced, workshop
from spec_cascade_build.errors import BuildError

HOLD = """
import sys
from pathlib import Path
from spec_cascade_build.directory import replaced
with replaced(Path(sys.argv[1])) as new:
    (new / "file").write_text("half")
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """Another process, in the middle of writing `out`."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def _write(output: Path, text: str) -> None:
    with replaced(output) as new:
        assert not (new / "file").exists()
        (new / "file").write_text(text)


def test_the_directory_appears_at_the_end_and_nothing_else_stays(tmp_path: Path) -> None:
    with replaced(tmp_path / "a" / "out") as new:
        assert not (tmp_path / "a" / "out").exists()
        (new / "file").write_text("x")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"


def test_an_older_directory_is_replaced_whole(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    _write(tmp_path / "out", "new")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_error_leaves_the_older_directory_as_it_was(tmp_path: Path) -> None:
    _write(tmp_path / "out", "old")
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "out"):
        raise FileNotFoundError
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() == "old"


def test_a_killed_build_leaves_no_directory_and_the_next_one_cleans_up(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        holder.kill()
    assert not (tmp_path / "out").exists()
    assert len(list(tmp_path.iterdir())) == 1
    _write(tmp_path / "out", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_running_build_is_not_taken_for_a_dead_one(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "writing\n"
        _write(tmp_path / "out", "ours")
        assert (tmp_path / "out" / "file").read_text() == "ours"
        holder.communicate("\n")
    assert holder.returncode == 0
    assert (tmp_path / "out" / "file").read_text() == "half"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_builds_at_the_same_time_all_end_and_one_of_them_stays(tmp_path: Path) -> None:
    threads = [threading.Thread(target=_write, args=(tmp_path / "out", str(i))) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "file").read_text() in map(str, range(8))


def test_workshops_of_other_names_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".other.building-1").mkdir()
    (tmp_path / ".out.building-file").write_text("not a directory")
    with workshop(tmp_path, ".out.building-"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.building-1", ".out.building-file"]


def test_only_engine_directories_and_empty_ones_are_replaceable(tmp_path: Path) -> None:
    check_replaceable(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    check_replaceable(tmp_path / "empty")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "manifest.json").write_text("{}")
    check_replaceable(tmp_path / "engine")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    for path in (tmp_path / "home", tmp_path / "home" / "thesis.tex"):
        with pytest.raises(BuildError, match="is not an engine directory"):
            check_replaceable(path)
