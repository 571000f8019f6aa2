"""docker/held.py: what an image has stays, shown with a real pip, and is seen to have changed where it did not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import packaging
import pytest

from tests.unit.docker.dockerfile import ROOT
from tests.unit.docker.wheels import write_installed, write_wheel

if TYPE_CHECKING:
    from types import ModuleType

SCRIPT = ROOT / "docker" / "held.py"
PIN = "light==1.0"


@pytest.fixture(scope="module")
def held() -> ModuleType:
    spec = importlib.util.spec_from_file_location("held", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_installed_comes_before_what_is_pinned(held: ModuleType) -> None:
    here = {"torch": "2.10.0a0+b4e4.nv25.12", "pydantic-core": "2.41.0", "odd": "1.0-unknown"}
    pins = ["# a comment", "torch==2.13.0", "pydantic_core==2.50.4", 'rich==15.0.0; python_version >= "3.10"', ""]
    assert held.constraints(here, pins).splitlines() == [
        "pydantic-core==2.41.0",
        "torch==2.10.0a0+b4e4.nv25.12",
        "# Not installed then: pinned by this project.",
        'rich==15.0.0; python_version >= "3.10"',
    ]


def test_what_has_changed_or_gone_is_named_and_what_was_added_is_not(held: ModuleType) -> None:
    before = held.constraints({"numpy": "1.26.4", "torch": "2.10", "tqdm": "4"}, ["rich==15"])
    assert held.changed(before, {"numpy": "2.0", "tqdm": "4", "rich": "15"}) == [
        "numpy 1.26.4 became 2.0",
        "torch 2.10 became nothing",
    ]


def test_what_a_package_lacks_is_named(
    held: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needs = [
        "here>=1",
        "none>=1",
        "old>=2; extra == 'big'",
        "early>=2.6; extra == 'big'",
        "own[small]; extra == 'big'",
        "never; extra == 'other'",
        "nowhere; python_version < '3'",
    ]
    write_installed(tmp_path, "own", "1", needs)
    for name, version in {"here": "1.5", "old": "1.9", "early": "2.10.0a0+nv"}.items():
        write_installed(tmp_path, name, version)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert held.main(["require", "own", "big"]) == 1
    assert capsys.readouterr().err == "own lacks: none>=1\nown lacks: old>=2\n"
    write_installed(tmp_path, "none", "1")
    assert held.main(["require", "own"]) == 0


def test_of_two_of_one_name_the_imported_one_counts(
    held: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_installed(tmp_path / "system", "Some_Thing", "1")
    write_installed(tmp_path / "local", "some-thing", "2")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "local"), str(tmp_path / "system")])
    assert held.installed() == {"some-thing": "2"}


def test_without_a_verb_it_says_how_it_is_used(held: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert held.main([]) == 2
    assert "python3 held.py write PINS HELD" in capsys.readouterr().err


class Machine:
    """An environment with `heavy` 1.0 as its maker built it, and a shop that has a newer one."""

    def __init__(self, place: Path) -> None:
        self.place = place
        venv.create(place / "venv", with_pip=False)
        self.python = place / "venv" / "bin" / "python"
        (place / "lib").mkdir()
        assert packaging.__file__ is not None
        (place / "lib" / "packaging").symlink_to(Path(packaging.__file__).parent)
        for version in ("1.0+nv", "2.0"):
            write_wheel(place / "shop", "heavy", version)
        write_wheel(place / "shop", "light", "1.0", ["heavy"])
        write_wheel(place / "shop", "light", "2.0", ["heavy>=2"])
        assert self.pip("heavy==1.0+nv").returncode == 0
        (place / "pins.txt").write_text(PIN)

    def pip(self, *words: str) -> subprocess.CompletedProcess[str]:
        shop = ["--no-index", "--find-links", str(self.place / "shop"), "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "--python", str(self.python), "install", *shop, *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def held(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.python, SCRIPT, *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.place,
            env={"PYTHONPATH": str(self.place / "lib")},
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_pip_adds_beside_what_is_held(machine: Machine) -> None:
    assert machine.held("write", "pins.txt", "held.txt").returncode == 0
    done = machine.pip("--constraint", str(machine.place / "held.txt"), "light")
    assert done.returncode == 0, done.stderr
    assert machine.held("check", "held.txt").returncode == 0
    assert "Successfully installed light-1.0" in done.stdout


def test_pip_fails_where_it_would_replace_what_is_held(machine: Machine) -> None:
    (machine.place / "pins.txt").write_text("light==2.0")
    assert machine.held("write", "pins.txt", "held.txt").returncode == 0
    done = machine.pip("--constraint", str(machine.place / "held.txt"), "light")
    assert done.returncode == 1
    assert "heavy==1.0+nv" in done.stdout
    assert machine.held("check", "held.txt").returncode == 0


def test_what_pip_replaced_without_the_constraints_is_found(machine: Machine) -> None:
    assert machine.held("write", "pins.txt", "held.txt").returncode == 0
    assert machine.pip("light").returncode == 0
    done = machine.held("check", "held.txt")
    assert (done.returncode, done.stderr) == (1, "changed: heavy 1.0+nv became 2.0\n")
