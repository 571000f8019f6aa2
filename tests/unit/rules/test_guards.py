"""Guards answer for a place; drafting modes that make a rule meaningless are refused."""

from __future__ import annotations

import pytest

from spec_cascade.errors import ConfigError
from spec_cascade.rules import Place, check_draft_mode, parse_rule

STRICT = parse_rule("strict")
LENIENT = parse_rule("token_v3:alpha=0.8")


def test_strict_prefix_ends_after_its_tokens() -> None:
    rule = parse_rule("token_v3:alpha=0.8,strict_prefix_tokens=2")
    assert [rule.at(Place(i)) for i in range(4)] == [STRICT, STRICT, LENIENT, LENIENT]
    assert rule.looks_at == "position"
    assert parse_rule("token_v3:alpha=0.8,strict_prefix_tokens=0").looks_at == "nothing"


@pytest.mark.parametrize(
    ("tokens", "inside"),
    [
        ([], False),
        ([5], False),
        ([7], True),
        ([7, 5, 5], True),
        ([7, 5, 8], False),
        ([7, 8, 5, 7, 5], True),
        ([8], False),
    ],
)
def test_phase_holds_between_its_tokens(tokens: list[int], inside: bool) -> None:
    rule = parse_rule("phase(token_v3:alpha=0.8):start=7,end=8")
    assert rule.at(Place(len(tokens), tokens)) == (LENIENT if inside else STRICT)
    assert rule.looks_at == "tokens"


def test_schedule_takes_the_stage_that_is_reached() -> None:
    rule = parse_rule("schedule(0=strict, 3=token_v3:alpha=0.8, 5=chow:alpha=0.2)")
    chow = parse_rule("chow:alpha=0.2")
    assert [rule.at(Place(i)) for i in (0, 2, 3, 4, 5, 99)] == [STRICT, STRICT, LENIENT, LENIENT, chow, chow]
    assert rule.looks_at == "position"


def test_guards_nest() -> None:
    rule = parse_rule("schedule(0=strict, 2=phase(token_v3:alpha=0.8,strict_prefix_tokens=3):start=7,end=8)")
    assert rule.looks_at == "tokens"
    assert rule.at(Place(1, [7])) == STRICT
    assert rule.at(Place(2, [7])) == STRICT
    assert rule.at(Place(3, [7])) == LENIENT
    assert rule.at(Place(3, [7, 8])) == STRICT


def test_a_guard_is_as_lossy_as_its_rule() -> None:
    assert parse_rule("phase(token_v3:alpha=0.8):start=7,end=8").lossy
    assert not parse_rule("phase(token_v3:alpha=-0.1):start=7,end=8").lossy
    assert not parse_rule("schedule(0=strict, 4=target_only)").lossy


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("chow:alpha=0.4", "one-hot row"),
        ("chow_log:alpha=0.4", "one-hot row"),
        ("diff:alpha=0", "one-hot row"),
        ("diff_log:alpha=0", "one-hot row"),
        ("opt:alpha=0.1", "one-hot row"),
        ("token_v1:alpha=0.4", "one-hot row"),
        ("all_of(chow:alpha=0.4, token_v3:alpha=0.8)", "in chow:alpha=0.4, the drafter's confidence"),
        ("target_support(diff:alpha=0.2):strict_prefix_tokens=4", "one-hot row"),
        ("schedule(0=strict, 9=phase(chow:alpha=0.2):start=1,end=2)", "one-hot row"),
    ],
)
@pytest.mark.parametrize("argmax_drafts", [True, False])
def test_rules_that_read_the_drafters_gate_are_refused_without_its_logits(
    spec: str, reason: str, argmax_drafts: bool
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check_draft_mode(parse_rule(spec), argmax_drafts=argmax_drafts, gates_available=False)
    check_draft_mode(parse_rule(spec), argmax_drafts=argmax_drafts, gates_available=True)


def test_an_infinite_divergence_is_refused_with_argmax_drafts() -> None:
    rule = parse_rule("divergence:alpha=0.3,kind=kl")
    with pytest.raises(ConfigError, match="KL"):
        check_draft_mode(rule, argmax_drafts=True, gates_available=True)
    check_draft_mode(rule, argmax_drafts=False, gates_available=True)


@pytest.mark.parametrize(
    "spec",
    [
        "strict",
        "token_v2:alpha=0.2",
        "token_v3:alpha=0.8",
        "margin:alpha=0.8",
        "top_k:k=2",
        "lossy:alpha=0.3",
        "typical:epsilon=0.3,delta=0.09",
        "relaxed:top_n=2,delta=0.1",
        "mix:weight=0.5",
        "chow:alpha=-0.1",
        "diff:alpha=-0.3",
    ],
)
def test_rules_that_keep_their_meaning_are_allowed(spec: str) -> None:
    check_draft_mode(parse_rule(spec), argmax_drafts=True, gates_available=False)
