"""Which verifier runs, and that nobody can tell from the verdict."""

from __future__ import annotations

import os

import pytest
import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError
from spec_cascade.rules import parse_rule
from spec_cascade.verify import BatchSampling, Purpose, dispatch, draw, draws, sample, verify
from tests.unit.verify.rounds import make_round

ONE = SamplingParams()
STRICT = [parse_rule("strict")] * 2
interpreted = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="Triton-lang compiles here")


def report(round_, backend="auto", **options):
    sampling = BatchSampling.of(round_.params)
    logits = round_.draft_logits, round_.target_logits
    return verify(round_.draft_tokens, *logits, round_.rules, sampling, round_.uniforms, backend=backend, **options)


def test_on_the_cpu_the_reference_runs_and_says_why():
    ran = report(make_round(STRICT, ONE)).ran
    assert (ran.backend, ran.reason) == ("reference", "the logits are not on a CUDA device")


@interpreted
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_kernels_run_where_they_are_asked_for():
    round_ = make_round(STRICT, ONE)
    verdict = report(round_, "fused")
    assert (verdict.ran.backend, verdict.ran.reason) == ("fused", "")
    expected = round_.reference()
    assert torch.equal(verdict.accepted, expected.accepted)
    assert torch.equal(verdict.next_token, expected.next_token)
    assert verdict.accepted.dtype == expected.accepted.dtype
    assert verdict.deferred.dtype == expected.deferred.dtype
    assert torch.equal(verdict.draft_tokens, round_.draft_tokens)
    assert verdict.draft_tokens.dtype == round_.draft_tokens.dtype


@pytest.mark.parametrize(
    ("rules", "change", "reason"),
    [
        (["strict", "mix:weight=0.5"], {}, "rule mix has no fused form"),
        (["strict", "all_of(chow:alpha=0.5, token_v3:alpha=0.5)"], {}, "rule all_of has no fused form"),
        (["strict", "divergence:alpha=0.2,kind=js"], {}, "rule divergence has no fused form"),
        (["strict", "strict"], {"dtype": torch.float64}, "the logits are not float16, bfloat16 or float32"),
    ],
)
def test_what_the_kernels_cannot_do_is_refused_with_the_reason(rules, change, reason):
    dtype = change.get("dtype", torch.float32)
    round_ = make_round([parse_rule(rule) for rule in rules], ONE, dtype=dtype)
    with pytest.raises(ConfigError, match=reason):
        report(round_, "fused")


def test_columns_that_are_not_contiguous_are_the_references_business():
    round_ = make_round(STRICT, ONE)
    wide = torch.stack((round_.target_logits, round_.target_logits), -1)[..., 0]
    sampling = BatchSampling.of(round_.params)
    arguments = (round_.draft_tokens, round_.draft_logits, wide, STRICT, sampling, round_.uniforms)
    with pytest.raises(ConfigError, match="not contiguous along the vocabulary"):
        verify(*arguments, backend="fused")
    verdict = verify(*arguments)
    assert verdict.ran.backend == "reference"
    assert torch.equal(verdict.next_token, round_.reference().next_token)


def test_a_fused_rule_behind_a_guard_stays_fused_and_the_other_half_of_a_guard_counts():
    pytest.importorskip("triton")
    from spec_cascade.verify.fused import NotFusedError, RuleTable

    tokens = torch.zeros(1, 4, dtype=torch.long)
    guarded = parse_rule("token_v3:alpha=0.8,strict_prefix_tokens=2")
    assert RuleTable.of([guarded], tokens).codes.tolist() == [[0, 0, 8, 8]]
    with pytest.raises(NotFusedError):
        RuleTable.of([parse_rule("schedule(0=strict, 3=mix:weight=0.5)")], tokens)


def test_rows_narrower_than_the_vocabulary_are_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="vocab_size 400 exceeds"):
        report(make_round(STRICT, ONE), "fused", vocab_size=400)


def test_a_part_of_the_vocabulary_that_is_wider_than_its_rows_is_refused():
    pytest.importorskip("triton")
    with pytest.raises(ValueError, match="draft_index has 301 ids for 300 columns"):
        report(make_round(STRICT, ONE), "fused", draft_index=torch.arange(301))


def test_draws_on_the_cpu_are_the_references():
    seeds, positions = torch.tensor([3, 4]), torch.tensor([0, 9])
    expected = draws.round_uniforms(seeds, positions, 3)
    assert torch.equal(dispatch.round_uniforms(seeds, positions, 3), expected)
    assert torch.equal(dispatch.uniforms(seeds, positions, Purpose.ACCEPT), expected[:, 0, 0])


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_sample_is_drawn_from_the_sampling_row_and_says_where_there_is_none(temperature):
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(1))
    params = [SamplingParams(temperature=temperature)] * 4
    numbers = torch.tensor([0.1, 0.5, 0.9, 1 - 2**-53], dtype=torch.float64)
    sampling = BatchSampling.of(params)
    tokens, sound = sample(logits, sampling, numbers, vocab_size=290)
    assert torch.equal(tokens, draw(sampling.probs(logits[:, None, :290]).squeeze(1), numbers))
    assert sound.all()
    broken = logits.clone()
    broken[0, 5], broken[1, 5], broken[3] = float("nan"), float("inf"), float("-inf")
    tokens, sound = sample(broken, sampling, numbers)
    assert sound.tolist() == [False, False, True, False]
    # They are embedded before anybody looks.
    assert ((tokens >= 0) & (tokens < 300)).all()


def test_a_verdict_comes_to_the_host_whole():
    round_ = make_round(
        [parse_rule(rule) for rule in ("strict", "token_v3:alpha=0.8", "chow:alpha=0.5")], ONE, length=4
    )
    there, here = round_.reference(), report(round_)
    for part in ("accepted", "next_token", "deferred", "draft_tokens"):
        assert torch.equal(getattr(here, part), getattr(there, part))
        assert getattr(here, part).dtype == getattr(there, part).dtype
    assert torch.equal(here.draft_tokens, round_.draft_tokens)
