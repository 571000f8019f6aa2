"""Values that can be checked by hand, for rows q and p given as lists."""

from __future__ import annotations

import pytest
import torch

from spec_cascade.rules import parse_rule
from spec_cascade.rules.emission import emission, expected_acceptance
from spec_cascade.verify import verify
from tests.unit.rules.rows_for_tests import rows_of
from tests.unit.verify.toy import batch_sampling, sampling

AGREE = ([0.5, 0.3, 0.15, 0.05], [0.7, 0.1, 0.15, 0.05])
DISAGREE = ([0.6, 0.3, 0.1], [0.25, 0.55, 0.2])
ONE_HOT = ([0.0, 1.0, 0.0, 0.0], [0.5, 0.375, 0.125, 0.0])
DRAFT_LOGITS = [2.0, 1.5, 0.3, -0.4, -2.0]
TARGET_LOGITS = [1.0, 2.2, 0.9, -1.0, -3.0]


@pytest.mark.parametrize(
    ("rows", "spec", "law", "acceptance", "expected"),
    [
        (AGREE, "strict", [0.7, 0.1, 0.15, 0.05], [1, 1 / 3, 1, 1], 0.8),
        (AGREE, "chow:alpha=0.6", AGREE[0], [1, 1, 1, 1], 1),
        (AGREE, "diff:alpha=0.125", AGREE[1], [1, 1 / 3, 1, 1], 0.8),
        (AGREE, "opt:alpha=0.5", AGREE[1], [1, 1 / 3, 1, 1], 0.8),
        (AGREE, "opt:alpha=1.01", AGREE[0], [1, 1, 1, 1], 1),
        (AGREE, "token_v3:alpha=0.3", [0.85, 0.05, 0.075, 0.025], [1, 1 / 6, 0.5, 0.5], 0.65),
        (AGREE, "token_v3:alpha=0.8", [0.745, 0.035, 0.2025, 0.0175], [1, 0.35 / 3, 1, 0.35], 0.7025),
        (AGREE, "token_v1:alpha=0.5", [0.64, 0.32, 0.03, 0.01], [1, 1, 0.2, 0.2], 0.84),
        (AGREE, "lossy:alpha=0.5", [0.6, 0.2, 0.15, 0.05], [1, 2 / 3, 1, 1], 0.9),
        (DISAGREE, "strict", DISAGREE[1], [0.25 / 0.6, 1, 1], 0.65),
        (DISAGREE, "diff:alpha=0", DISAGREE[0], [1, 1, 1], 1),
        (DISAGREE, "opt:alpha=0", DISAGREE[0], [1, 1, 1], 1),
        (DISAGREE, "token_v1:alpha=0.3", [0.625, 0.355, 0.02], [1, 1, 0.2], 0.92),
        (DISAGREE, "token_v3:alpha=0.3", [0.175, 0.685, 0.14], [0.175 / 0.6, 1, 1], 0.575),
        (DISAGREE, "lossy:alpha=0.5", [0.5, 0.55 / 1.5, 0.2 / 1.5], [0.5 / 0.6, 1, 1], 0.9),
        (ONE_HOT, "strict", ONE_HOT[1], [1, 0.375, 1, 1], 0.375),
        (ONE_HOT, "chow:alpha=0", ONE_HOT[0], [1, 1, 1, 1], 1),
        (ONE_HOT, "diff:alpha=0", ONE_HOT[0], [1, 1, 1, 1], 1),
        (ONE_HOT, "opt:alpha=0", ONE_HOT[0], [1, 1, 1, 1], 1),
        (ONE_HOT, "token_v1:alpha=0.3", ONE_HOT[0], [1, 1, 1, 1], 1),
        (ONE_HOT, "token_v3:alpha=0", ONE_HOT[1], [1, 0.375, 1, 1], 0.375),
        (ONE_HOT, "token_v3:alpha=0.3", ONE_HOT[0], [1, 1, 1, 1], 1),
        (ONE_HOT, "lossy:alpha=0.5", [0.25 * 4 / 5, 0.75, 0.25 / 5, 0], [1, 0.75, 1, 1], 0.75),
    ],
)
def test_law_and_acceptance(
    rows: tuple[list[float], list[float]], spec: str, law: list[float], acceptance: list[float], expected: float
) -> None:
    r, rule = rows_of(*rows), parse_rule(spec)
    drafted = r.draft_probs > 0
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(rule.law(*rows_as_tensors(rows)), torch.tensor(law, dtype=torch.float64), **close)
    accepts = torch.tensor(acceptance, dtype=torch.float64)
    torch.testing.assert_close(rule.acceptance(r)[drafted], accepts[drafted], **close)
    assert expected_acceptance(rule, r).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "spec", "residual"),
    [
        (AGREE, "strict", [1, 0, 0, 0]),
        (AGREE, "token_v3:alpha=0.8", [0.8235, 0, 0.1765, 0]),
        (DISAGREE, "strict", [0, 0.7143, 0.2857]),
        (DISAGREE, "token_v1:alpha=0.3", [0.3125, 0.6875, 0]),
        (DISAGREE, "token_v3:alpha=0.3", [0, 0.9059, 0.0941]),
    ],
)
def test_residual(rows: tuple[list[float], list[float]], spec: str, residual: list[float]) -> None:
    weights = parse_rule(spec).residual(rows_of(*rows), torch.tensor(0))
    assert (weights / weights.sum()).tolist() == pytest.approx(residual, abs=5e-5)


def test_cactus_on_the_agreeing_rows() -> None:
    rule, r = parse_rule("cactus:delta=0.1"), rows_of(*AGREE)
    assert rule.acceptance(r).tolist() == pytest.approx([1, 0.7805, 1, 1], abs=5e-5)
    assert expected_acceptance(rule, r).item() == pytest.approx(0.9342, abs=5e-5)


def test_leniency_with_the_common_residual_has_another_law() -> None:
    r = rows_of(*DISAGREE)
    accepts = parse_rule("lossy:alpha=0.5").acceptance(r)
    residual = (r.target_probs - r.draft_probs).clamp_min(0)
    law = r.draft_probs * accepts + (1 - (r.draft_probs * accepts).sum()) * residual / residual.sum()
    assert law.tolist() == pytest.approx([0.5, 0.3714, 0.1286], abs=5e-5)
    assert emission(parse_rule("lossy:alpha=0.5"), r).tolist() == pytest.approx([0.5, 0.3667, 0.1333], abs=5e-5)


def test_gates_are_read_from_the_raw_rows_not_from_the_processed_ones() -> None:
    q, p = ((torch.tensor(x, dtype=torch.float64) / 0.5).softmax(-1) for x in (DRAFT_LOGITS, TARGET_LOGITS))
    raw = [torch.tensor(x, dtype=torch.float64).softmax(-1) for x in (DRAFT_LOGITS, TARGET_LOGITS)]
    rule = parse_rule("chow:alpha=0.4")
    assert raw[0].max().item() == pytest.approx(0.527, abs=5e-4)
    assert torch.equal(rule.law(q, p, *raw), p)
    assert torch.minimum(q, p).sum().item() == pytest.approx(0.3638, abs=5e-5)
    assert torch.equal(rule.law(q, p, q, p), q), "the processed gate, .709, keeps"


@pytest.mark.parametrize(
    ("spec", "emitted"), [("diff:alpha=0.125", 0), ("token_v3:alpha=0.3", 1), ("token_v3:alpha=0.8", 0), ("strict", 1)]
)
def test_greedy_disagreement(spec: str, emitted: int) -> None:
    verdict = verify(
        torch.tensor([[0]]),
        torch.tensor([[DRAFT_LOGITS]]),
        torch.tensor([[TARGET_LOGITS, TARGET_LOGITS]]),
        [parse_rule(spec)],
        batch_sampling(sampling(temperature=0), 1),
        torch.full((1, 2, 2), 0.5),
    )
    assert (0 if verdict.accepted[0] == 1 else verdict.next_token[0].item()) == emitted


def rows_as_tensors(rows: tuple[list[float], list[float]]) -> tuple[torch.Tensor, ...]:
    r = rows_of(*rows)
    return r.draft_probs, r.target_probs, r.draft_gate, r.target_gate
