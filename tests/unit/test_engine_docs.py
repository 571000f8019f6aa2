"""docs/engine.md names every field and every count, with the defaults that hold."""

from __future__ import annotations

import re
from pathlib import Path

from spec_cascade.decoding.policy import PolicySettings
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade_build.pair import PairDefaults

TEXT = (Path(__file__).parents[2] / "docs/engine.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]


def test_the_table_of_defaults_is_the_pair_files() -> None:
    documented = {row[0].strip("`"): row[1].strip("`") for row in ROWS if len(row) == 3}
    values = PairDefaults().model_dump()
    assert documented == {name: str(v).lower() if isinstance(v, bool) else str(v) for name, v in values.items()}


def test_the_table_of_counts_is_what_is_sent() -> None:
    documented = {name for row in ROWS if len(row) == 2 for name in re.findall(r"`(\w+)`", row[0])}
    assert documented == {*RequestStatistics().as_dict(), "seed"}


def test_the_numbers_of_the_fallback_are_the_policys() -> None:
    settings = PolicySettings(max_draft_length=8)
    switch = settings.switch
    assert f"fewer than {settings.min_steps} judged blocks" in TEXT.replace("\n", " ")
    assert f"turns on again from {switch.on_above}" in TEXT.replace("\n", " ")
    assert f"every {switch.probe_after} rounds" in TEXT.replace("\n", " ")
    assert f"rests for {settings.pause_rounds} rounds" in TEXT.replace("\n", " ")
