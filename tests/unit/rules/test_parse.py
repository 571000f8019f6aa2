"""`parse_rule`: what it reads, what it refuses and in which words, and that rules write themselves as they are read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from spec_cascade.errors import ConfigError
from spec_cascade.rules import parse_rule, with_default_guards
from spec_cascade.rules.compose import AllOf, AnyOf
from spec_cascade.rules.guards import Phase, Schedule, StrictPrefix
from spec_cascade.rules.registry import ALIASES, BUILT_IN
from spec_cascade.rules.row import Chow, Diff, Opt
from spec_cascade.rules.support import TargetSupport
from spec_cascade.rules.token import TokenV2, TokenV3
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLES = [rule.about.example for rule in BUILT_IN if rule.about]


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        ("token_v3:alpha=0.8", TokenV3(0.8)),
        (" token_v3 : alpha = 0.8 ", TokenV3(0.8)),
        ("opt:alpha=-inf", Opt(float("-inf"))),
        ("token_v3:alpha=0.8,strict_prefix_tokens=0", StrictPrefix(TokenV3(0.8), 0)),
        ("token_v3:strict_prefix_tokens=4,alpha=0.8", StrictPrefix(TokenV3(0.8), 4)),
        ("all_of(chow:alpha=0.3, token_v2:alpha=0.2)", AllOf((Chow(0.3), TokenV2(0.2)))),
        (
            "any_of(all_of(chow:alpha=0.3, diff:alpha=0), token_v3:alpha=0.2):strict_prefix_tokens=2",
            StrictPrefix(AnyOf((AllOf((Chow(0.3), Diff(0))), TokenV3(0.2))), 2),
        ),
        ("phase(token_v3:alpha=0.8):start=7,end=8", Phase(TokenV3(0.8), 7, 8)),
        ("phase(token_v3:alpha=0.8,strict_prefix_tokens=1):start=7,end=8", Phase(StrictPrefix(TokenV3(0.8), 1), 7, 8)),
        ("target_support(chow:alpha=0.3)", TargetSupport(Chow(0.3))),
        ("schedule(0=chow:alpha=0.3, 16=token_v3:alpha=0.5)", Schedule(((0, Chow(0.3)), (16, TokenV3(0.5))))),
        ({"name": "token_v3", "alpha": 0.8}, TokenV3(0.8)),
        ({"name": "token_v3", "alpha": 1, "strict_prefix_tokens": 3}, StrictPrefix(TokenV3(1), 3)),
        ({"name": "all_of", "rules": ["chow:alpha=0.3", {"name": "diff", "alpha": 0}]}, AllOf((Chow(0.3), Diff(0)))),
        ({"name": "phase", "rule": "token_v3:alpha=0.8", "start": 7, "end": 8}, Phase(TokenV3(0.8), 7, 8)),
        (
            {"name": "schedule", "stages": {16: "token_v3:alpha=0.5", 0: "chow:alpha=0.3"}},
            Schedule(((0, Chow(0.3)), (16, TokenV3(0.5)))),
        ),
        (TokenV3(0.8), TokenV3(0.8)),
    ],
)
def test_reads(spec: object, rule: object) -> None:
    assert parse_rule(spec) == rule


def test_reads_yaml() -> None:
    written = """
    name: all_of
    strict_prefix_tokens: 8
    rules:
      - {name: opt, alpha: .inf}
      - divergence:alpha=0.2,kind=js
    """
    assert str(parse_rule(yaml.safe_load(written))) == (
        "all_of(opt:alpha=inf, divergence:alpha=0.2,kind=js):strict_prefix_tokens=8"
    )


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_the_four_families_go_by_their_names(alias: str, name: str) -> None:
    assert parse_rule(f"{alias}:alpha=0.5") == parse_rule(f"{name}:alpha=0.5")


def test_the_families_are_the_published_four() -> None:
    assert ALIASES == {
        "confidence": "chow",
        "comparative": "diff",
        "cost_benefit": "opt",
        "token_specific": "token_v3",
    }


@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED, *LAWLESS, *EXAMPLES, "strict:strict_prefix_tokens=2"])
def test_a_rule_writes_itself_as_it_is_read(spec: str) -> None:
    rule = parse_rule(spec)
    assert parse_rule(str(rule)) == rule
    assert hash(parse_rule(str(rule))) == hash(rule)
    guarded = with_default_guards(rule)
    assert parse_rule(str(guarded)) == guarded


@given(st.floats(-1, 1), st.floats(allow_nan=False))
def test_parameters_survive_writing_and_reading(alpha: float, any_alpha: float) -> None:
    assert parse_rule(str(TokenV3(alpha))).alpha == alpha
    assert parse_rule(str(Opt(any_alpha))).alpha == any_alpha


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("tokn_v3:alpha=0.5", r"deferral_rule = 'tokn_v3' .* \(did you mean 'token_v3'\?\)"),
        ("token_v3:alhpa=0.5", r"token_v3.alhpa = '0.5' .* alpha, strict_prefix_tokens \(did you mean 'alpha'\?\)"),
        ("token_v3", r"token_v3.alpha = None .* given: a number in \[-1, 1\]"),
        ("token_v3:alpha=1.5", r"token_v3.alpha = '1.5' .* a number in \[-1, 1\]"),
        ("token_v3:alpha=half", r"token_v3.alpha = 'half' .* a number in \[-1, 1\]"),
        ("token_v3:alpha=nan", r"token_v3.alpha = 'nan' "),
        ("token_v3:alpha=", r"token_v3.alpha = '' "),
        ("token_v3:alpha=0.1,alpha=0.2", r"token_v3.alpha = '0.2' .* given once"),
        ("cactus:delta=inf", r"cactus.delta = 'inf' .* a finite number >= 0"),
        ("top_k:k=1.5", r"top_k.k = '1.5' .* an integer >= 0"),
        ("divergence:alpha=0.1,kind=tvd", r"divergence.kind = 'tvd' .* one of tv, js, kl \(did you mean 'tv'\?\)"),
        ("token_v3:alpha=0.5,strict_prefix_tokens=-1", r"strict_prefix_tokens = '-1' .* an integer >= 0"),
        ("strict(chow:alpha=0.1)", "without parentheses"),
        ("phase:start=1,end=2", "one rule in parentheses"),
        ("all_of()", "NAME"),
        ("all_of(chow:alpha=0.1", "balanced parentheses"),
        ("chow:alpha=0.1)", "a number in"),
        ("all_of(chow:alpha=0.1, mix:weight=0.5)", "keep set"),
        ("all_of(chow:alpha=0.1,strict_prefix_tokens=3, diff:alpha=0)", "guards go around the whole"),
        ("all_of(0=chow:alpha=0.1)", "only a schedule has positions"),
        ("schedule(chow:alpha=0.1)", "only a schedule has positions"),
        ("schedule(1=chow:alpha=0.1)", "the first is 0"),
        ("schedule(0=strict, 0=strict)", "positions that differ"),
        ("", "NAME"),
        (":alpha=1", "NAME"),
        ("x" * 5000, "at most 4096 characters"),
        ("all_of(" * 50 + "strict" + ")" * 50, "NAME"),
        ({"alpha": 0.5}, "a mapping with its name and parameters"),
        ({"name": "token_v3", "alpha": True}, r"token_v3.alpha = True .* a number"),
        ({"name": "token_v3", "alpha": None}, r"token_v3.alpha = None .* a number"),
        ({"name": "token_v3:alpha=0.5", "alpha": 0.4}, "a bare name"),
        ({"name": "all_of", "rules": "strict"}, "a list of rules"),
        ({"name": "schedule", "stages": ["strict"]}, "a mapping of positions to rules"),
        ({"name": "token_v3", "alpha": 0.5, "rule": "strict"}, "without parentheses"),
        (5, "a mapping with its name and parameters"),
    ],
)
def test_refuses_with_the_field_the_value_and_what_is_allowed(spec: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rule(spec)


def test_a_rule_made_in_code_is_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"chow.alpha = 2 "):
        Chow(2)


def test_text_from_a_client_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_of_a_stranger.py").write_text("class Rule: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    for text in ("rules_of_a_stranger:Rule", "all_of(strict, rules_of_a_stranger:Rule)"):
        with pytest.raises(ConfigError, match="deferral_rule"):
            parse_rule(text, allow_import=False)
    assert "rules_of_a_stranger" not in sys.modules
    with pytest.raises(ConfigError, match="deferral_rule"):
        parse_rule("rules_of_a_stranger:Rule")
    assert sys.modules.pop("rules_of_a_stranger"), "whoever may import it can"


def test_default_guards_are_for_lossy_rules_that_do_not_choose_their_own() -> None:
    lossy = parse_rule("token_v3:alpha=0.8")
    assert with_default_guards(lossy) == StrictPrefix(lossy, 4)
    assert with_default_guards(lossy, strict_prefix_tokens=1) == StrictPrefix(lossy, 1)
    assert with_default_guards(lossy, strict_prefix_tokens=0) is lossy
    for own in ("token_v3:alpha=0.8,strict_prefix_tokens=0", "strict", "chow:alpha=-0.5", "target_only"):
        assert with_default_guards(parse_rule(own)) == parse_rule(own)


def test_a_combination_is_bounded_with_all_that_is_nested_in_it() -> None:
    many = ", ".join(["top_k:k=2"] * 16)
    assert parse_rule(f"all_of({many})")
    with pytest.raises(ConfigError, match="17 rules"):
        parse_rule(f"any_of(all_of({many}), top_k:k=3)")
