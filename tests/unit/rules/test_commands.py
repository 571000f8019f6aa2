"""``spec-cascade rules`` and the table in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.commands import register
from spec_cascade.rules.registry import BUILT_IN
from spec_cascade.rules.table import markdown

DOCUMENT = Path(__file__).parents[3] / "docs" / "rules.md"


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("COLUMNS", "80")
    return CliRunner()


def run(cli: CliRunner, *arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = cli.invoke(app, ["rules", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_lists_every_rule_with_its_whole_name_on_a_narrow_terminal(cli: CliRunner) -> None:
    listed = [line.split()[0] for line in run(cli).splitlines() if line.strip()]
    for rule in BUILT_IN:
        assert rule.name in listed


def test_the_documented_table_is_the_codes(cli: CliRunner) -> None:
    assert run(cli, "--markdown") == markdown()
    _, _, rest = DOCUMENT.read_text().partition("<!-- rules: begin -->\n")
    table, _, _ = rest.partition("<!-- rules: end -->")
    assert table == markdown(), "run `spec-cascade rules --markdown` and paste its output into docs/rules.md"


@pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.name)
def test_explains_every_rule_with_a_worked_example(cli: CliRunner, rule: type) -> None:
    output = " ".join(run(cli, "show", rule.name).split())
    assert rule.about.formula in output
    assert "A draft is accepted with probability" in output


def test_works_the_example_that_is_asked_for(cli: CliRunner) -> None:
    output = run(cli, "show", "token_v3:alpha=0.3")
    assert "accepted with probability 0.6500 (strict: 0.8000)" in output
    for emitted in ("0.8500", "0.0500", "0.0750", "0.0250"):
        assert emitted in output


@pytest.mark.parametrize("rule", BUILT_IN, ids=lambda rule: rule.name)
def test_every_rule_says_all_about_itself(rule: type) -> None:
    assert rule.about is not None
    for fact in (rule.about.family, rule.about.formula, rule.about.strict, rule.about.drafter_only, rule.about.example):
        assert fact
    assert rule.__doc__
