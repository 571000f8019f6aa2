"""Every rule's law, acceptance and residual against the plain transcription, to 1e-12 in float64."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spec_cascade.rules import KeepRule, NoLawError, Rows, parse_rule
from spec_cascade.rules.emission import emission, expected_acceptance
from spec_cascade.rules.row import total_variation
from tests.unit.rules import naive
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS, each, rows, special_rows

EXACT = 1e-12
VOCABULARIES = (2, 3, 4)
# The bisections of `mentored` and of its transcription stop within this of each other.
TOLERANCE = {"mentored": 1e-9}


def naive_form(spec: str) -> object:
    rule = parse_rule(spec)
    parameters = {f.name: getattr(rule, f.name) for f in fields(rule)}
    return getattr(naive, rule.name)(**parameters)


def lists(r: Rows) -> list[list[float]]:
    return [row.tolist() for row in (r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)]


def close(a: torch.Tensor, b: torch.Tensor | list[float], tolerance: float = EXACT) -> bool:
    return torch.allclose(a, torch.as_tensor(b, dtype=torch.float64), rtol=0, atol=tolerance)


def decided_by_rounding(spec: str, r: Rows) -> bool:
    """Whether two ways of adding the same numbers may decide differently: entropies and distances that nearly tie."""
    rule = parse_rule(spec)
    q, p, qg, pg = lists(r)
    gap = {
        "chow_log": lambda: naive.entropy(qg) - rule.alpha,
        "diff_log": lambda: naive.entropy(pg) - naive.entropy(qg) + rule.alpha,
        "opt": lambda: max(qg) - max(pg) + (rule.alpha * naive.total_variation(p, q) if q != p else 0),
        "divergence": lambda: (
            {"tv": naive.total_variation, "js": naive.jensen_shannon, "kl": naive.kullback_leibler}[rule.kind](p, q)
            - rule.alpha
        ),
        "mentored": lambda: naive.kullback_leibler(p, q) - rule.budget,
    }.get(rule.name, lambda: 1.0)()
    return not math.isinf(gap) and abs(gap) < 1e-9


@pytest.mark.parametrize("spec", SPECS)
def test_law_is_the_transcribed_one(spec: str) -> None:
    rule, form = parse_rule(spec), naive_form(spec)
    for vocab in VOCABULARIES:
        batch = special_rows(vocab)
        laws = rule.law(batch.draft_probs, batch.target_probs, batch.draft_gate, batch.target_gate)
        for r, law in zip(each(batch), laws, strict=True):
            assert decided_by_rounding(spec, r) or close(law, form(*lists(r)), TOLERANCE.get(rule.name, EXACT))


@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED])
def test_acceptance_and_residual_emit_the_law(spec: str) -> None:
    rule = parse_rule(spec)
    for vocab in VOCABULARIES:
        r = special_rows(vocab)
        law = rule.law(r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)
        assert close(law.sum(-1), torch.ones(len(law)))
        assert law.min() >= 0
        assert close(emission(rule, r), law)
        distance = total_variation(Rows(r.draft_probs, law, law, law)).squeeze(-1)
        assert close(1 - expected_acceptance(rule, r), distance), "P(reject) = D_TV(pi, q)"


@pytest.mark.parametrize("spec", LAWLESS)
def test_rules_without_a_law_accept_and_replace_as_transcribed(spec: str) -> None:
    rule, form = parse_rule(spec), naive_form(spec)
    assert not rule.has_law
    for vocab in VOCABULARIES:
        batch = special_rows(vocab)
        with pytest.raises(NoLawError, match=rule.name):
            rule.law(batch.draft_probs, batch.target_probs, batch.draft_gate, batch.target_gate)
        for r, chance, emitted in zip(each(batch), rule.acceptance(batch), emission(rule, batch), strict=True):
            accepts, replacements = form(*lists(r))
            drafted = r.draft_probs > 0
            assert close(chance[drafted], torch.tensor(accepts, dtype=torch.float64)[drafted])
            assert close(emitted, naive.emission(accepts, replacements, *lists(r)[:2]))


@pytest.mark.parametrize("spec", LAWLESS)
def test_a_guarded_rule_without_a_law_never_emits_what_the_target_forbids(spec: str) -> None:
    r = special_rows(4)
    emitted = emission(parse_rule(f"target_support({spec})"), r)
    assert close(emitted.sum(-1), torch.ones(len(emitted)))
    assert emitted[r.target_probs == 0].max() < EXACT


@settings(max_examples=300, deadline=None)
@given(rows(), st.sampled_from([s for s in SPECS if "mentored" not in s]))
def test_law_acceptance_and_residual_agree_on_any_rows(r: Rows, spec: str) -> None:
    assume(not decided_by_rounding(spec, r))
    rule = parse_rule(spec)
    law = rule.law(r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)
    assert close(law, naive_form(spec)(*lists(r)), TOLERANCE.get(rule.name, EXACT))
    assert close(emission(rule, r), law)


@settings(max_examples=150, deadline=None)
@given(rows(), st.sampled_from(COMPOSED))
def test_compositions_emit_their_law_on_any_rows(r: Rows, spec: str) -> None:
    rule = parse_rule(spec)
    law = rule.law(r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)
    assert abs(law.sum() - 1) < EXACT
    assert close(emission(rule, r), law)


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from([s for s in [*SPECS, *COMPOSED, *LAWLESS] if "mentored" not in s]))
def test_judge_says_what_acceptance_says(r: Rows, spec: str) -> None:
    rule = parse_rule(spec)
    vocab = r.draft_probs.shape[-1]
    batch = Rows(*(row.expand(vocab, -1) for row in (r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)))
    chance, deferred = rule.judge(batch, torch.arange(vocab))
    drafted = r.draft_probs > 0
    assert close(chance[drafted], rule.acceptance(r)[drafted])
    assert torch.equal(deferred, rule.deferred(batch, torch.arange(vocab)))
    if isinstance(rule, KeepRule):
        assert torch.equal(deferred, ~rule.kept(r).expand(vocab))


class WrongShortcut(KeepRule):
    """What several ports do for the token rules: accept in K, test plain p / q outside, replace from p - q."""

    name = "wrong_shortcut"

    def __init__(self, rule: KeepRule) -> None:
        self._rule = rule

    def keep(self, rows: Rows) -> torch.Tensor:
        return self._rule.keep(rows)

    def acceptance(self, rows: Rows) -> torch.Tensor:
        return (rows.target_probs / rows.draft_probs).clamp_max(1).masked_fill(self.keep(rows), 1)

    def residual(self, rows: Rows, drafted: torch.Tensor) -> torch.Tensor:
        return (rows.target_probs - rows.draft_probs).clamp_min(0)


def test_the_wrong_shortcut_has_another_law() -> None:
    rule = parse_rule("token_v3:alpha=0.3")
    assert isinstance(rule, KeepRule)
    q = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    p = torch.tensor([0.7, 0.1, 0.15, 0.05], dtype=torch.float64)
    r = Rows(q, p, q, p)
    wrong = emission(WrongShortcut(rule), r)
    assert close(wrong, [0.7, 0.1, 0.15, 0.05]), "on this row it is strict, not the rule"
    assert close(rule.law(q, p, q, p), [0.85, 0.05, 0.075, 0.025])
    assert close(emission(rule, r), rule.law(q, p, q, p))
