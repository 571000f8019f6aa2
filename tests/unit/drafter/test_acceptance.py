"""The acceptance of a rule against brute force: draft every token in turn, and ask the rule about that one alone."""

from __future__ import annotations

import pytest
import torch

from spec_cascade.rules import Rows, parse_rule
from spec_cascade_build.drafter.acceptance import acceptance
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS, each, rows_of, special_rows

RULES = [*SPECS, *LAWLESS, *COMPOSED]


def brute_force(spec: str, row: Rows) -> float:
    """Sum over all drafted tokens x of q(x) times the rule's judgement of x, one `judge` each."""
    rule = parse_rule(spec)
    chances = [float(rule.judge(row, torch.tensor(x))[0]) for x in range(row.target_probs.shape[-1])]
    return sum(float(q) * chance for q, chance in zip(row.draft_probs, chances, strict=True))


@pytest.mark.parametrize("spec", RULES)
def test_acceptance_is_what_judging_every_token_adds_up_to(spec: str):
    rule = parse_rule(spec)
    batch = special_rows(4)
    expected = [brute_force(spec, row) for row in each(batch)]
    assert acceptance(rule, batch).tolist() == pytest.approx(expected, abs=1e-12)


def test_strict_accepts_the_overlap_of_both_rows():
    rows = rows_of([0.5, 0.3, 0.15, 0.05], [0.7, 0.1, 0.15, 0.05])
    assert acceptance(parse_rule("strict"), rows).item() == pytest.approx(0.5 + 0.1 + 0.15 + 0.05)


@pytest.mark.parametrize("spec", RULES)
def test_a_drafter_of_some_tokens_is_the_whole_drafter_that_never_proposes_the_others(spec: str):
    rule = parse_rule(spec)
    index = torch.tensor([0, 2, 3])
    whole = special_rows(5)

    def part(row: torch.Tensor) -> torch.Tensor:
        known = row[:, index] + 1e-3
        return known / known.sum(-1, keepdim=True)

    few = Rows(part(whole.draft_probs), whole.target_probs, part(whole.draft_gate), whole.target_gate, index)
    torch.testing.assert_close(acceptance(rule, few), acceptance(rule, few.whole()), rtol=0, atol=1e-12)


def test_acceptance_takes_rows_of_any_shape_and_gates_that_nobody_reads():
    q, p = torch.rand(2, 2, 3, 7).log_softmax(-1).exp()
    rows = Rows(q, p, q.new_empty(0), q.new_empty(0))
    chances = acceptance(parse_rule("strict"), rows)
    assert chances.shape == (2, 3)
    torch.testing.assert_close(chances, torch.minimum(q, p).sum(-1))
