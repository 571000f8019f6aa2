"""Where rules are the target, where the drafter, what is monotone and what is not, and which rules coincide."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spec_cascade.rules import Rows, parse_rule
from spec_cascade.rules.emission import emission, expected_acceptance
from spec_cascade.rules.row import total_variation
from spec_cascade.verify import verify
from tests.unit.rules import naive
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS, rows, special_rows
from tests.unit.verify.toy import batch_sampling, sampling

MONOTONE = {
    "chow": [f"chow:alpha={a}" for a in (-1, -0.1, 0, 0.3, 0.6, 1)],
    "chow_log": [f"chow_log:alpha={a}" for a in (-1, 0, 0.4, 1, 2)],
    "diff": [f"diff:alpha={a}" for a in (-1, -0.2, 0, 0.2, 1)],
    "diff_log": [f"diff_log:alpha={a}" for a in ("-inf", -0.5, 0, 0.5, "inf")],
    "opt": [f"opt:alpha={a}" for a in ("-inf", -0.7, -0.1, 0, 0.3, 0.9, "inf")],
    "divergence tv": [f"divergence:alpha={a}" for a in (-1, 0.1, 0.4, 1)],
    "divergence js": [f"divergence:kind=js,alpha={a}" for a in (-1, 0.1, 0.4, 0.7)],
    "divergence kl": [f"divergence:kind=kl,alpha={a}" for a in (-1, 0.1, 0.4, "inf")],
    "mix": [f"mix:weight={w}" for w in (1, 0.9, 0.5, 0)],
    "lossy": [f"lossy:alpha={a}" for a in (0, 0.2, 0.6, 1)],
    "mentored": [f"mentored:budget={b}" for b in (0, 0.02, 0.2, "inf")],
    "cactus": [f"cactus:delta={d}" for d in (0, 0.1, 1, 5)],
    "ears": [f"ears:tolerance={t}" for t in (0, 0.2, 1)],
    "typical": [f"typical:epsilon={e},delta=0.5" for e in (1, 0.3, 0.1, 0)],
    "relaxed": [f"relaxed:top_n={n},delta={d}" for n, d in ((1, 0), (2, 0.3), (3, 0.3), (9, 1))],
}


def law(spec: str, r: Rows) -> torch.Tensor:
    return parse_rule(spec).law(r.draft_probs, r.target_probs, r.draft_gate, r.target_gate)


def laws_or_emissions(spec: str, r: Rows) -> torch.Tensor:
    return law(spec, r) if parse_rule(spec).has_law else emission(parse_rule(spec), r)


@pytest.mark.parametrize("spec", [*SPECS, *COMPOSED, *LAWLESS])
def test_lossy_says_exactly_whether_the_law_ever_differs_from_the_target(spec: str) -> None:
    differs = False
    for vocab in (2, 3, 4, 5):
        r = special_rows(vocab)
        differs |= not torch.allclose(laws_or_emissions(spec, r), r.target_probs, rtol=0, atol=1e-12)
    assert parse_rule(spec).lossy == differs


@settings(max_examples=200, deadline=None)
@given(rows(), st.sampled_from([s for s in [*SPECS, *COMPOSED] if not parse_rule(s).lossy]))
def test_a_lossless_rule_has_the_targets_row_bit_for_bit(r: Rows, spec: str) -> None:
    assert torch.equal(law(spec, r), r.target_probs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("spec", ["chow:alpha=-1e-12", "token_v2:alpha=-1e-12", "token_v3:alpha=-1e-12"])
def test_a_lossless_alpha_too_small_for_the_row_type_is_lossless_all_the_same(spec: str, dtype: torch.dtype) -> None:
    q, p = torch.tensor([1.0, 0.0], dtype=dtype), torch.tensor([0.25, 0.75], dtype=dtype)
    assert torch.equal(parse_rule(spec).law(q, p, q, p), p)


DRAFTER_ONLY = [
    "drafter_only",
    "chow:alpha=1",
    f"chow_log:alpha={math.log(5) + 1e-9}",
    "diff:alpha=1",
    f"diff_log:alpha={math.log(5) + 1e-9}",
    "opt:alpha=inf",
    "divergence:alpha=1.000001",
    f"divergence:kind=js,alpha={math.log(2) + 1e-9}",
    "divergence:kind=kl,alpha=inf",
    "token_v1:alpha=1",
    "token_v2:alpha=1",
    "token_v3:alpha=1",
    "top_k:k=5",
    "mix:weight=0",
    "lossy:alpha=1",
    "mentored:budget=inf",
]


@settings(max_examples=200, deadline=None)
@given(rows(max_vocab=5), st.sampled_from(DRAFTER_ONLY))
def test_a_drafter_only_rule_has_the_drafters_row(r: Rows, spec: str) -> None:
    if spec.startswith("opt") and torch.equal(r.draft_probs, r.target_probs):
        return  # Without a distance alpha has no say, and both rows are the law.
    torch.testing.assert_close(law(spec, r), r.draft_probs, rtol=0, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from([-1.01, 1.01]))
def test_opt_is_settled_beyond_one_where_gates_are_sampling_rows(r: Rows, alpha: float) -> None:
    same = Rows(r.draft_probs, r.target_probs, r.draft_probs, r.target_probs)
    expected = r.draft_probs if alpha > 0 else r.target_probs
    assert torch.equal(law(f"opt:alpha={alpha}", same), expected)


@settings(max_examples=150, deadline=None)
@given(rows(), st.sampled_from([family for family in MONOTONE if family != "mentored"]))
def test_acceptance_is_monotone_where_the_table_says_so(r: Rows, family: str) -> None:
    accepted = [expected_acceptance(parse_rule(spec), r).item() for spec in MONOTONE[family]]
    assert all(a <= b + 1e-12 for a, b in pairwise(accepted))


def test_acceptance_of_mentored_is_monotone() -> None:
    r = special_rows(4)
    accepted = [expected_acceptance(parse_rule(spec), r) for spec in MONOTONE["mentored"]]
    assert all((a <= b + 1e-9).all() for a, b in pairwise(accepted))


@pytest.mark.parametrize("name", ["token_v1", "token_v2", "token_v3"])
def test_acceptance_of_token_rules_is_not_monotone(name: str) -> None:
    q = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    p = torch.tensor([0.45, 0.3, 0.2, 0.05], dtype=torch.float64)
    alphas = [-1.0, *(a / 20 for a in range(-4, 21))]
    accepted = [expected_acceptance(parse_rule(f"{name}:alpha={a}"), Rows(q, p, q, p)).item() for a in alphas]
    assert accepted[0] == pytest.approx(0.95)
    assert min(accepted) < accepted[0] - 0.01, "at small alpha they accept less than strict"
    assert accepted[-1] == pytest.approx(1)


@settings(max_examples=100, deadline=None)
@given(rows(), st.sampled_from(["token_v2:alpha=0", "token_v3:alpha=0", "top_k:k=1", "margin:alpha=0"]))
def test_keeping_the_best_token_alone_gives_it_the_best_of_two_draws(r: Rows, spec: str) -> None:
    if (r.target_gate == r.target_gate.max()).sum() > 1:
        return
    best = r.target_gate.argmax()
    expected = 1 - (1 - r.draft_probs[best]) * (1 - r.target_probs[best])
    torch.testing.assert_close(law(spec, r)[best], expected, rtol=0, atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(rows(), st.sampled_from([s for s in SPECS if s.startswith(("chow", "diff", "opt", "divergence"))]))
def test_a_row_rule_is_off_by_the_distance_of_the_rows_or_by_nothing(r: Rows, spec: str) -> None:
    distance = naive.total_variation(r.target_probs.tolist(), law(spec, r).tolist())
    apart = total_variation(r).item()
    assert distance == 0 or distance == pytest.approx(apart, abs=1e-12)
    if spec.startswith("divergence") and "kind=tv" in spec:
        assert distance <= max(0, parse_rule(spec).alpha) + 1e-12


@pytest.mark.parametrize("budget", [0.01, 0.2])
def test_mentored_spends_its_budget_and_no_more(budget: float) -> None:
    for vocab in (2, 3, 4):
        r = special_rows(vocab)
        for q, p, pi in zip(r.draft_probs, r.target_probs, law(f"mentored:budget={budget}", r), strict=True):
            q, p, pi = q.tolist(), p.tolist(), pi.tolist()
            spent = naive.kullback_leibler(p, pi)
            assert spent <= budget + 1e-9
            # Short of q itself, tokens that p lacks get nothing, so that there may be little to spend on.
            most = naive.kullback_leibler(p, naive.lossy(1 - 1e-12)(q, p, q, p))
            assert spent == pytest.approx(
                min(budget, max(most, naive.kullback_leibler(p, q) if pi == q else 0)), abs=1e-9
            )


@settings(max_examples=50, deadline=None)
@given(rows(), st.floats(0, 1))
def test_margin_is_token_v3_within_the_top_two(r: Rows, alpha: float) -> None:
    assert torch.equal(law(f"margin:alpha={alpha}", r), law(f"all_of(token_v3:alpha={alpha}, top_k:k=2)", r))


# Temperature 0: x is the drafter's token, y the target's.


def greedy(spec: str, draft_logits: torch.Tensor, target_logits: torch.Tensor) -> list[int]:
    batch = draft_logits.shape[0]
    drafted = draft_logits.argmax(-1, keepdim=True)
    verdict = verify(
        drafted,
        draft_logits[:, None],
        target_logits[:, None].expand(-1, 2, -1),
        [parse_rule(spec)] * batch,
        batch_sampling(sampling(temperature=0), batch),
        torch.full((batch, 2, 2), 0.5),
    )
    return torch.where(verdict.accepted == 1, drafted[:, 0], verdict.next_token).tolist()


def some_logits() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draft = torch.randn(400, 6, generator=generator, dtype=torch.float64)
    return draft, 0.6 * draft + torch.randn(400, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("alpha", [-0.3, 0, 0.1, 0.4, 0.9])
def test_emitted_tokens_at_temperature_zero(alpha: float) -> None:
    draft, target = some_logits()
    q, p = draft.softmax(-1), target.softmax(-1)
    x, y = draft.argmax(-1), target.argmax(-1)
    at_x = p.gather(-1, x[:, None]).squeeze(-1)
    keeps = {
        "chow": q.amax(-1) >= 1 - alpha,
        "diff": q.amax(-1) >= p.amax(-1) - alpha,
        "opt": q.amax(-1) >= p.amax(-1) - alpha,
        "token_v1": q.amax(-1) >= p.amax(-1) - alpha,
        "token_v2": at_x >= p.amax(-1) - alpha,
        "token_v3": at_x >= (1 - alpha) * p.amax(-1),
    }
    for name, kept in keeps.items():
        assert greedy(f"{name}:alpha={alpha}", draft, target) == torch.where(kept, x, y).tolist(), name
    if alpha >= 0:
        relaxed = f"relaxed:top_n=6,delta={alpha}"
        assert greedy(relaxed, draft, target) == greedy(f"token_v2:alpha={alpha}", draft, target)


@pytest.mark.parametrize(
    "spec",
    [
        "strict",
        "lossy:alpha=0.7",
        "mentored:budget=0.3",
        "ears:tolerance=0.9",
        "typical:epsilon=0.3,delta=0.09",
        "relaxed:top_n=1,delta=0.9",
        "token_v3:alpha=0",
        "token_v2:alpha=0",
    ],
)
def test_rules_that_are_strict_at_temperature_zero(spec: str) -> None:
    draft, target = some_logits()
    assert greedy(spec, draft, target) == target.argmax(-1).tolist()
