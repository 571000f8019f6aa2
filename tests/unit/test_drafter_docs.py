"""docs/drafter.md names every field of a recipe, with the default that holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from spec_cascade_build.pair import Drafter
from spec_cascade_build.recipe import MakeRecipe, TextRecipe, TrainingRecipe
from spec_cascade_build.section import Section

TEXT = (Path(__file__).parents[2] / "docs/drafter.md").read_text(encoding="utf-8")
SECTIONS = {"make": MakeRecipe, "make.text": TextRecipe, "make.training": TrainingRecipe}


@pytest.mark.parametrize("name", SECTIONS)
def test_the_tables_are_the_recipe(name: str) -> None:
    table = TEXT.split(f"| field of `{name}` |")[1].split("\n\n")[0]
    rows = [[cell.strip().strip("`") for cell in line.split("|")[1:3]] for line in table.splitlines()[2:]]
    assert dict(rows) == {field: _default(SECTIONS[name], field) for field in _plain_fields(SECTIONS[name])}


def _plain_fields(section: type[Section]) -> list[str]:
    return [name for name in section.model_fields if name not in ("text", "training")]


def _default(section: type[Section], field: str) -> str:
    info = section.model_fields[field]
    return "" if info.is_required() else str(info.default)


def test_the_example_is_a_recipe() -> None:
    example = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[0]
    assert Drafter.model_validate(yaml.safe_load(example)["drafter"]).make is not None
