"""The table of rules says what was measured."""

from __future__ import annotations

import io
import re

from rich.console import Console

from spec_cascade_build.demo.measure import Measurement, remarks, table
from spec_cascade_client import Result, Statistics


def measurement(rule, token_ids, seconds, **statistics):
    result = Result(
        text="", token_ids=token_ids, token_sources=(), pieces=(), log_probs=(), finish_reason="length",
        statistics=Statistics(rule=rule, **statistics),
    )  # fmt: skip
    return Measurement(rule, result, seconds)


def rendered(*measurements):
    console = Console(file=io.StringIO(), width=120)
    console.print(table(measurements))
    return [re.split(r"\s{2,}", line.strip()) for line in console.file.getvalue().splitlines()]


PLAIN = measurement("target_only", (1, 2, 3, 4), (2.0, 9.0, 1.0), tokens_per_target_call=1.0)


def test_speed_is_by_the_median_run_and_relative_to_the_first_row():
    drafted = {"num_draft_tokens": 4, "draft_acceptance_rate": 0.75, "tokens_per_target_call": 2.5}
    rows = rendered(PLAIN, measurement("strict", (1, 2, 3, 4), (0.5, 0.5, 1.0), **drafted))
    assert rows[-3:-1] == [
        ["target_only", "4", "1.00", "-", "2.0", "1.00x", "all"],
        ["strict", "4", "2.50", "75%", "8.0", "4.00x", "all"],
    ]


def test_a_text_that_is_not_the_targets_says_where_it_departs():
    rows = rendered(PLAIN, measurement("opt", (1, 2, 9, 4), (1.0,)), measurement("chow", (1, 2), (1.0,)))
    assert [row[-1] for row in rows[-4:-1]] == ["all", "2 tokens", "2 tokens"]


def test_a_lossless_rule_that_departs_is_remarked_on_and_a_lossy_one_is_not():
    lossy, lossless = (measurement(f"lossy={lossy}", (9,), (1.0,), lossy=lossy) for lossy in (True, False))
    assert remarks([PLAIN, lossy]) == []
    assert remarks([PLAIN, lossless])[0].startswith("lossy=False: lossless")


def test_the_table_fits_eighty_columns():
    rule = "token_v3:alpha=0.8"
    console = Console(file=io.StringIO(), width=80)
    console.print(table([PLAIN, measurement(rule, (1, 2), (0.1,))]))
    assert "…" not in console.file.getvalue()
    assert rule in console.file.getvalue()
