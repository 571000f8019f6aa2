"""What holds of the kernels wherever they run: `tests/unit` runs these interpreted, `tests/gpu` compiled.

Everything is measured against the reference under the same uniforms, token for token.
"""

from __future__ import annotations

import math

import pytest
import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import Place, parse_rule
from spec_cascade.verify import BatchSampling, LogitsError, Purpose, draw, draws, fused
from spec_cascade.verify.fused import philox
from tests.unit.verify.rounds import Round, assert_agree, make_round

ONE = SamplingParams(temperature=1.0)
WARM = SamplingParams(temperature=0.7)
HOT = SamplingParams(temperature=1.6)
GREEDY = SamplingParams(temperature=0.0)

# Every closed form, at parameters where it keeps some rows or tokens and defers others, and at its limits.
FUSED_RULES = [
    parse_rule(text)
    for text in (
        "strict",
        "chow:alpha=0.5",
        "chow_log:alpha=1.5",
        "diff:alpha=0.05",
        "diff_log:alpha=0.1",
        "opt:alpha=0.3",
        "token_v1:alpha=0.2",
        "token_v2:alpha=0.2",
        "token_v3:alpha=0.7",
        "top_k:k=3",
        "margin:alpha=0.9",
        "divergence:alpha=0.3",
        "drafter_only",
        "target_only",
        "opt:alpha=inf",
        "token_v3:alpha=0",
    )
]
FEW_RULES = [parse_rule(text) for text in ("strict", "opt:alpha=0.3", "token_v3:alpha=0.7")]


# The interpreter computes -inf - -inf and the like on the way to numbers that are masked out.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
# Older interpreters turn arrays of one number into bounds of loops.
@pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")
class KernelLaws:
    """Each law takes the ``device`` that its module's fixture names."""

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_every_fused_rule_decides_as_the_reference_in_one_mixed_batch(self, device, dtype):
        params = [(ONE, WARM, HOT, ONE, GREEDY)[b % 5] for b in range(len(FUSED_RULES))]
        seed = (torch.float32, torch.bfloat16, torch.float16).index(dtype)
        verdict = assert_agree(make_round(FUSED_RULES, params, dtype=dtype, device=device, seed=seed))
        assert set(verdict.accepted.tolist()) == {0, 1, 2}

    @pytest.mark.parametrize("vocab", [2, 1000, 5003, 32003])
    def test_a_vocabulary_need_not_be_a_power_of_two(self, device, vocab):
        assert_agree(make_round(FEW_RULES, WARM, vocab=vocab, length=1, dtype=torch.bfloat16, device=device))

    def test_the_entropy_of_a_row_is_that_of_its_tiles_together(self, device):
        rules = [parse_rule(f"chow_log:alpha={alpha}") for alpha in (2.95, 5.1, 5.2, 4.88)]
        verdict = assert_agree(make_round(rules, ONE, vocab=5003, device=device, length=1))
        assert verdict.deferred.flatten().tolist() == [True, False, False, True]

    def test_blocks_may_be_ragged(self, device):
        rules = [*FEW_RULES, parse_rule("chow:alpha=0.5")]
        lengths = torch.tensor([0, 3, 1, 2])
        verdict = assert_agree(make_round(rules, ONE, length=3, device=device, draft_lengths=lengths))
        assert (verdict.accepted.cpu() <= lengths).all()

    def test_a_round_without_drafts_samples_the_target(self, device):
        assert_agree(make_round(FEW_RULES, [ONE, WARM, GREEDY], length=0, device=device))

    def test_a_sample_is_what_a_round_without_drafts_gives(self, device):
        params = [ONE, WARM, GREEDY, SamplingParams(top_k=4), SamplingParams(top_p=0.6, temperature=0.8)]
        round_ = make_round([parse_rule("strict")] * 5, params, length=0, device=device, vocab=500)
        sampling = BatchSampling.of(params, device)
        logits = round_.target_logits[:, 0].clone()
        tokens, errors = fused.sample(logits, sampling, round_.uniforms[:, 0, 1], vocab_size=480)
        expected = draw(sampling.probs(logits[:, None, :480]).squeeze(1), round_.uniforms[:, 0, 1])
        assert torch.equal(tokens, expected)
        assert not errors.any()
        logits[3, 7] = math.nan
        _, errors = fused.sample(logits, sampling, round_.uniforms[:, 0, 1], vocab_size=480)
        assert (errors != 0).tolist() == [False, False, False, True, False]

    def test_padding_of_the_vocabulary_is_never_read(self, device):
        round_ = make_round(FEW_RULES, [ONE, GREEDY, HOT], vocab=200, device=device)
        padding = torch.full((3, 3, 57), 80.0, device=device)
        padding[0, 0, 0] = math.nan
        padded = Round(
            round_.draft_tokens,
            torch.cat((round_.draft_logits, padding[:, :2, :20]), -1),
            torch.cat((round_.target_logits, padding), -1),
            *(round_.rules, round_.params, round_.uniforms, {"vocab_size": 200}),
        )
        for ours, theirs in zip(_parts(padded.fused()), _parts(round_.fused()), strict=True):
            assert torch.equal(ours, theirs)

    def test_rows_may_be_strided(self, device):
        round_ = make_round(FEW_RULES, ONE, device=device, length=2)
        sliced = Round(
            round_.draft_tokens,
            torch.stack((round_.draft_logits, round_.draft_logits * 0), 2)[:, :, 0],
            round_.target_logits.transpose(0, 1).contiguous().transpose(0, 1),
            *(round_.rules, round_.params, round_.uniforms),
        )
        assert not sliced.draft_logits.is_contiguous()
        assert_agree(sliced)

    def test_at_temperature_0_ties_go_to_the_first_index(self, device):
        rules = [parse_rule(t) for t in ("strict", "token_v1:alpha=0.1", "opt:alpha=0.2", "divergence:alpha=0.5")]
        round_ = make_round(rules, GREEDY, device=device, vocab=40, scale=1.0)
        # Whole numbers tie often, and drafts that are no argmax at all must not confuse either verifier.
        tied = Round(
            round_.draft_tokens + torch.tensor([[0, 1]], device=device) - (round_.draft_tokens == 39).long(),
            round_.draft_logits.round(),
            round_.target_logits.round(),
            *(round_.rules, round_.params, round_.uniforms),
        )
        assert_agree(tied)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    def test_truncated_rows_keep_the_same_tokens(self, device, dtype):
        params = [
            SamplingParams(top_k=5),
            SamplingParams(temperature=0.7, top_p=0.8),
            SamplingParams(temperature=1.3, min_p=0.1),
            SamplingParams(temperature=1.3, top_k=20, top_p=0.9, min_p=0.02),
            SamplingParams(temperature=0.0, top_k=3),
        ]
        rules = [
            parse_rule(t) for t in ("strict", "token_v2:alpha=0.2", "opt:alpha=0.3", "token_v3:alpha=0.7", "strict")
        ]
        assert_agree(make_round(rules, params, dtype=dtype, device=device, vocab=150))

    def test_a_cut_through_ties_keeps_the_first_indices(self, device):
        params = [SamplingParams(top_k=7), SamplingParams(top_p=0.51), SamplingParams(top_k=300)]
        rules = [parse_rule("strict")] * 3
        round_ = make_round(rules, params, device=device, vocab=60, scale=0.0)
        # All logits equal: only the index tells tokens apart.
        flat = Round(
            round_.draft_tokens % 5,
            round_.draft_logits * 0,
            round_.target_logits,
            *(round_.rules, round_.params, round_.uniforms),
        )
        verdict = flat.fused()
        assert (verdict.next_token[:2] < torch.tensor([7, 31])).all()
        assert_agree(flat)

    @pytest.mark.parametrize("with_logits", [True, False])
    def test_argmax_drafts_have_a_one_hot_q(self, device, with_logits):
        rules = [parse_rule(t) for t in ("strict", "token_v3:alpha=0.7", "divergence:alpha=0.6", "chow:alpha=0.5")]
        options = {"argmax_drafts": torch.tensor([True, True, True, False])} if with_logits else {}
        round_ = make_round(rules, [ONE, WARM, HOT, GREEDY], device=device, **options)
        if not with_logits:
            round_ = Round(round_.draft_tokens, None, round_.target_logits, *(rules, round_.params, round_.uniforms))
        assert_agree(round_)

    def test_a_drafter_of_a_part_of_the_vocabulary_is_one_that_gives_the_rest_no_chance(self, device):
        rules = FUSED_RULES[::2]
        params = [(ONE, WARM, SamplingParams(top_k=4), SamplingParams(top_p=0.8), GREEDY)[b % 5] for b in range(8)]
        known = torch.arange(1, 180, 3, device=device)
        whole = make_round(rules, params, vocab=180, device=device, scale=2.0)
        part = make_round(rules, params, vocab=60, device=device)
        round_ = Round(
            known[part.draft_tokens],
            torch.nn.functional.pad(part.draft_logits, (0, 4), value=90.0),
            # What the drafter does not know has its share of the target's rows.
            whole.target_logits.index_copy(-1, known, part.target_logits),
            *(rules, params, part.uniforms),
            {"draft_index": known, "argmax_drafts": torch.arange(8, device=device) % 4 == 0},
        )
        verdict = assert_agree(round_)
        assert set(verdict.accepted.tolist()) == {0, 1, 2}
        assert not torch.isin(verdict.next_token, known.cpu()).all()

    def test_forbidden_tokens_are_never_emitted(self, device):
        round_ = make_round(FEW_RULES, [ONE, WARM, GREEDY], device=device, vocab=120)
        round_.target_logits[..., ::2] = -math.inf
        round_.draft_logits[:, :, 60:] = -math.inf
        verdict = assert_agree(round_)
        assert (verdict.next_token % 2 == 1).all()

    def test_equal_rows_are_accepted_whatever_the_uniform(self, device):
        # The second rule keeps nothing, so that its law is p too, without the rounding of a sum.
        rules = [parse_rule("strict"), parse_rule("token_v1:alpha=-0.99")] * 3
        round_ = make_round(rules, [ONE, ONE, WARM, WARM, HOT, HOT], device=device, vocab=5003)
        equal = Round(
            round_.draft_tokens,
            round_.target_logits[:, :2].clone(),
            round_.target_logits,
            *(round_.rules, round_.params, torch.full_like(round_.uniforms, 1 - 2**-53)),
        )
        assert equal.fused().accepted.tolist() == [2] * 6

    def test_the_target_stands_in_for_an_empty_residual(self, device):
        round_ = make_round([parse_rule("strict")] * 2, [ONE, WARM], device=device)
        round_.target_logits[:, :2] = round_.draft_logits
        # The drafted token has no probability in either row: it is rejected, and p - q is 0 everywhere.
        for logits in (round_.draft_logits, round_.target_logits):
            logits[:, 0].scatter_(-1, round_.draft_tokens[:, :1], -math.inf)
        assert assert_agree(round_).accepted.tolist() == [0, 0]

    @pytest.mark.parametrize("params", [ONE, SamplingParams(top_k=4), SamplingParams(top_p=0.7), GREEDY])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("whose", ["draft", "target"])
    def test_a_row_that_makes_no_distribution_is_named(self, device, whose, bad, params):
        round_ = make_round(FEW_RULES[:2], params, device=device, vocab=20, draft_lengths=torch.tensor([1, 2]))
        logits = round_.draft_logits if whose == "draft" else round_.target_logits
        logits[1, 1, 7 if bad > 0 or math.isnan(bad) else slice(None)] = bad
        messages = []
        for judge in (round_.fused, round_.reference):
            with pytest.raises(LogitsError) as caught:
                judge()
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert f"{whose}_logits[1, 1]" in messages[0]

    def test_rows_beyond_a_block_may_hold_anything(self, device):
        round_ = make_round(FEW_RULES[:2], ONE, device=device, vocab=20, draft_lengths=torch.tensor([1, 2]))
        round_.draft_logits[0, 1:] = math.nan
        round_.target_logits[0, 2:] = math.nan
        assert_agree(round_)

    def test_guards_and_schedules_choose_the_rule_by_place(self, device):
        rules = [
            parse_rule("token_v3:alpha=0.9,strict_prefix_tokens=4"),
            parse_rule("schedule(0=strict, 5=drafter_only)"),
            parse_rule("phase(drafter_only):start=7,end=8"),
        ]
        places = [Place(2), Place(4), Place(9, (1, 7, 3))]
        round_ = make_round(rules, HOT, length=3, device=device, seed=3, places=places)
        verdict = assert_agree(round_)
        assert verdict.deferred[2].any().item() is False

    def test_draws_are_those_of_the_reference_bit_for_bit(self, device):
        generator = torch.Generator().manual_seed(1)
        seeds = torch.randint(-(2**63), 2**63 - 1, (300,), generator=generator)
        positions = torch.randint(0, 2**45, (300,), generator=generator)
        for purpose in Purpose:
            ours = philox.uniforms(seeds.to(device), positions.to(device), purpose)
            assert torch.equal(ours.cpu(), draws.uniforms(seeds, positions, purpose))
        ours = philox.round_uniforms(seeds.to(device), positions.to(device), 5)
        assert torch.equal(ours.cpu(), draws.round_uniforms(seeds, positions, 5))


def _parts(verdict):
    return verdict.accepted, verdict.next_token, verdict.deferred, verdict.draft_tokens
