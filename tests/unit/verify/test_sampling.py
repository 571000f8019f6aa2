"""Rows from logits: temperature, top-k, top-p, min-p against their definitions; argmax and draws."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spec_cascade.verify import BatchSampling, draw, truncation
from spec_cascade.verify.sampling import argmax, one_hot
from tests.unit.verify.toy import NO, sampling


def by_definition(logits: list[float], params: object) -> list[float]:
    """Sort by falling logit, ties by rising id; top-k, then top-p of what is left, then min-p, keep a prefix each."""
    if params.temperature == 0:
        return [float(v == logits.index(max(logits))) for v in range(len(logits))]
    row = [x / params.temperature for x in logits]
    order = sorted(range(len(row)), key=lambda v: (-row[v], v))
    if params.top_k:
        order = order[: params.top_k]
    weights = {v: math.exp(row[v] - row[order[0]]) for v in order}
    if params.top_p < 1:
        total, before, kept = sum(weights.values()), 0.0, []
        for v in order:
            if before >= params.top_p * total - 1e-15 and kept:
                break
            kept.append(v)
            before += weights[v]
        order = kept
    order = [v for v in order if weights[v] >= params.min_p - 1e-15]
    total = sum(weights[v] for v in order)
    return [weights[v] / total if v in order else 0.0 for v in range(len(row))]


# Logits in steps of 1/4 tie often; top-p and min-p in odd numbers that no sum of their weights meets.
LOGITS = st.lists(st.integers(-8, 8).map(lambda x: x / 4), min_size=2, max_size=12)
PARAMS = st.builds(
    sampling,
    temperature=st.sampled_from([0, 0.5, 1, 1.7]),
    top_k=st.integers(0, 13),
    top_p=st.sampled_from([0.01, 0.31415, 0.7182, 0.9234, 1.0]),
    min_p=st.sampled_from([0, 0.0713, 0.4142]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(LOGITS, PARAMS), min_size=1, max_size=4), st.sampled_from([2, 1024]))
def test_rows_follow_their_definition_in_any_company(
    several: list[tuple[list[float], object]], candidates: int
) -> None:
    width = max(len(logits) for logits, _ in several)
    padded = [logits + [NO] * (width - len(logits)) for logits, _ in several]
    batch = BatchSampling.of([params for _, params in several])
    before = truncation._CANDIDATES
    truncation._CANDIDATES = candidates
    try:
        probs = batch.probs(torch.tensor(padded, dtype=torch.float64)[:, None].expand(-1, 2, -1))
    finally:
        truncation._CANDIDATES = before
    for row, (logits, params) in zip(probs, several, strict=True):
        expected = by_definition(logits, params) + [0.0] * (width - len(logits))
        assert row[0].tolist() == pytest.approx(expected, abs=1e-12)
        assert torch.equal(row[0], row[1])


def test_a_wide_row_is_cut_the_same_from_candidates_and_from_a_whole_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.cat(
        (torch.randn(3, 2, 5000, generator=generator), 8 * torch.randn(3, 2, 5000, generator=generator)), 0
    )
    for params in (sampling(top_p=0.9), sampling(top_k=40, top_p=0.9), sampling(top_k=2000), sampling(min_p=0.1)):
        probs = BatchSampling.of([params] * 6).probs(logits)
        for row, whole in zip(probs.flatten(0, 1), logits.flatten(0, 1), strict=True):
            ranked = whole.softmax(-1).sort(descending=True).values
            kept = int((row > 0).sum())
            if params.top_k:
                assert kept <= params.top_k
                ranked = ranked[: params.top_k] / ranked[: params.top_k].sum()
            if params.top_p < 1:
                assert ranked[:kept].sum() >= params.top_p - 1e-5
                assert ranked[: kept - 1].sum() < params.top_p + 1e-5
            if params.min_p:
                assert kept == int((ranked >= params.min_p * ranked[0]).sum())
            assert torch.equal(row.argmax(), whole.argmax())


@pytest.mark.parametrize("vocab", [1, 5, 4095, 4096, 4100, 8192, 151_936])
def test_argmax_is_torchs_and_the_first_of_ties(vocab: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randint(-3, 3, (6, vocab), generator=generator).float()
    logits[0] = 1.0
    logits[1, -1] = 9.0
    logits[2] = NO
    logits[2, vocab // 2] = -5.0
    assert torch.equal(argmax(logits), logits.argmax(-1))
    assert argmax(logits)[0] == 0
    assert torch.equal(argmax(logits.view(2, 3, vocab)), logits.argmax(-1).view(2, 3))
    assert torch.equal(one_hot(argmax(logits), logits).argmax(-1), logits.argmax(-1))


def test_traits_say_what_is_needed() -> None:
    assert BatchSampling.of([sampling()] * 2).plain
    assert not BatchSampling.of([sampling(), sampling(temperature=0)]).plain
    assert not BatchSampling.of([sampling(), sampling(temperature=0.5)]).plain
    assert not BatchSampling.of([sampling(), sampling(top_k=5)]).plain
    made = BatchSampling.of([sampling(temperature=0, top_k=4), sampling(top_p=0.5), sampling(temperature=0.5)])
    bare = BatchSampling(made.temperature, made.top_k, made.top_p, made.min_p)
    assert bare.traits == made.traits
    assert made.traits.greedy == (0,)
    assert made.traits.truncated == (1,)
    assert made.traits.scaled


def test_half_precision_logits_give_float32_rows() -> None:
    logits = torch.randn(2, 1, 9, generator=torch.Generator().manual_seed(0))
    rows = BatchSampling.of([sampling(), sampling(temperature=0)]).probs(logits.bfloat16())
    assert rows.dtype == torch.float32
    assert torch.equal(rows[0], logits[:1].bfloat16().float().softmax(-1)[0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9).filter(any), st.floats(0, 1, exclude_max=True))
def test_draw_inverts_the_cumulated_weights(weights: list[int], u: float) -> None:
    drawn = int(draw(torch.tensor([weights], dtype=torch.float64), torch.tensor([u], dtype=torch.float64))[0])
    threshold = u * sum(weights)
    assert weights[drawn] > 0
    assert sum(weights[:drawn]) <= threshold or math.isclose(sum(weights[:drawn]), threshold)
    assert threshold < sum(weights[: drawn + 1]) or math.isclose(threshold, sum(weights[: drawn + 1]))


def test_draw_of_a_uniform_that_rounds_up_to_the_total_is_the_last_token_with_weight() -> None:
    weights = torch.tensor([[0.0, 0.1, 0.2, 0.0, 0.0]])
    assert draw(weights, torch.tensor([1.0], dtype=torch.float64)).tolist() == [2]
    assert draw(weights, torch.tensor([0.0], dtype=torch.float64)).tolist() == [1]


def test_a_request_that_keeps_many_tokens_does_not_make_the_others_rank_as_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(0))
    few, many = sampling(top_k=50), sampling(top_k=4000, top_p=0.9)
    alone = torch.cat([BatchSampling.of([p]).probs(row[None]) for p, row in zip((few, many), logits, strict=True)])
    ranked: list[int] = []
    topk = torch.Tensor.topk

    def counted(row: torch.Tensor, k: int) -> object:
        ranked.append(k)
        return topk(row, k)

    monkeypatch.setattr(torch.Tensor, "topk", counted)
    together = BatchSampling.of([few, many]).probs(logits)
    assert torch.equal(together, alone)
    assert ranked == [50]
