"""The verifier's edges: ragged and mixed batches, padding, parts of the vocabulary, argmax drafts, bad logits."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spec_cascade.rules import Place, Rows, parse_rule
from spec_cascade.verify import BatchSampling, LogitsError, Verdict, round_uniforms, verify
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS
from tests.unit.verify.toy import batch_sampling, sampling

ALL = [*SPECS, *COMPOSED, *LAWLESS, "token_v3:alpha=0.8,strict_prefix_tokens=5", "phase(chow:alpha=0.6):start=3,end=1"]
PARAMS = [
    sampling(),
    sampling(temperature=0),
    sampling(temperature=0.7),
    sampling(temperature=1.4, top_k=3),
    sampling(temperature=0.9, top_p=0.8),
    sampling(min_p=0.2),
]
NAN, INF = math.nan, math.inf


class Batch:
    """Random drafted blocks, one per rule, all different in rule, sampling parameters and length."""

    def __init__(self, vocab: int, rules: list[str], length: int = 3, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(vocab + length)
        batch = len(rules)
        self.rules = [parse_rule(rule) for rule in rules]
        self.params = [PARAMS[b % len(PARAMS)] for b in range(batch)]
        draft = torch.randn(batch, length, vocab, generator=generator, dtype=torch.float64) * 2
        target = torch.randn(batch, length + 1, vocab, generator=generator, dtype=torch.float64) * 2
        target[:, :length] += draft
        self.draft, self.target = draft.to(dtype), target.to(dtype)
        self.tokens = self.draft.argmax(-1)
        sampled = torch.rand(batch, length, generator=generator) < 0.5
        greedy = torch.tensor([p.temperature == 0 for p in self.params])[:, None]
        others = torch.randint(vocab, (batch, length), generator=generator)
        self.tokens = torch.where(sampled & ~greedy, others, self.tokens)
        self.lengths = torch.arange(batch) % (length + 1)
        self.positions = torch.arange(batch) * 3
        self.seeds = torch.arange(batch) + 2**40
        self.uniforms = round_uniforms(self.seeds, self.positions, length)
        self.places = [Place(int(p), [3] * (int(p) % 2)) for p in self.positions]

    def run(self, index: list[int] | None = None, **changes: object) -> Verdict:
        index = list(range(len(self.rules))) if index is None else index
        arguments: dict[str, object] = {
            "draft_tokens": self.tokens[index],
            "draft_logits": self.draft[index],
            "target_logits": self.target[index],
            "rules": [self.rules[b] for b in index],
            "sampling": BatchSampling.of([self.params[b] for b in index]),
            "uniforms": self.uniforms[index],
            "draft_lengths": self.lengths[index],
            "places": [self.places[b] for b in index],
        }
        return verify(**(arguments | changes))


def same(a: Verdict, b: Verdict) -> bool:
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in ("accepted", "next_token", "deferred"))


def rows_of(verdict: Verdict, index: list[int]) -> Verdict:
    accepted, next_token, deferred = verdict.accepted[index], verdict.next_token[index], verdict.deferred[index]
    return Verdict(accepted, next_token, deferred, verdict.draft_tokens[index], verdict.ran)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("vocab", "rules"), [(7, ALL), (40_003, [*SPECS[4:60:6], *LAWLESS[1::3], *COMPOSED[:4]])])
def test_a_sequence_does_not_depend_on_its_company(vocab: int, rules: list[str], threads: int) -> None:
    batch = Batch(vocab, rules, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = batch.run()
        for b in range(len(batch.rules)):
            assert same(batch.run([b]), rows_of(together, [b])), batch.rules[b]
        eight = list(range(8))
        assert same(batch.run(eight), rows_of(together, eight))
    finally:
        torch.set_num_threads(before)
    assert together.accepted.sum() > 0


def test_ragged_blocks_ignore_what_lies_beyond_their_length() -> None:
    batch = Batch(6, ALL)
    expected = batch.run()
    assert (expected.accepted <= batch.lengths).all()
    assert not expected.deferred[torch.arange(3) >= batch.lengths[:, None]].any()
    beyond = torch.arange(3) >= batch.lengths[:, None]
    spoilt_draft, spoilt_target, spoilt_tokens = batch.draft.clone(), batch.target.clone(), batch.tokens.clone()
    spoilt_draft[beyond] = NAN
    spoilt_target[torch.arange(4) > batch.lengths[:, None]] = NAN
    spoilt_tokens[beyond] = 5
    assert same(batch.run(draft_logits=spoilt_draft, target_logits=spoilt_target, draft_tokens=spoilt_tokens), expected)
    for b, length in enumerate(batch.lengths.tolist()):
        cut = batch.run(
            [b],
            draft_tokens=batch.tokens[[b], :length],
            draft_logits=batch.draft[[b], :length],
            target_logits=batch.target[[b], : length + 1],
            uniforms=batch.uniforms[[b], : length + 1],
            draft_lengths=None,
        )
        assert (cut.accepted[0], cut.next_token[0]) == (expected.accepted[b], expected.next_token[b])


def test_no_drafts_at_all_is_a_draw_from_the_target() -> None:
    batch = Batch(6, ALL)
    verdict = batch.run(
        draft_tokens=batch.tokens[:, :0],
        draft_logits=batch.draft[:, :0],
        target_logits=batch.target[:, :1],
        uniforms=batch.uniforms[:, :1],
        draft_lengths=None,
    )
    probs = BatchSampling.of(batch.params).probs(batch.target[:, :1])[:, 0]
    below = probs.cumsum(-1).gather(-1, verdict.next_token[:, None])[:, 0]
    assert (verdict.accepted == 0).all()
    assert (batch.uniforms[:, 0, 1] < below + 1e-12).all()
    assert (batch.uniforms[:, 0, 1] >= below - probs.gather(-1, verdict.next_token[:, None])[:, 0] - 1e-12).all()


def test_vocabulary_padding_is_masked_on_both_sides() -> None:
    batch = Batch(6, ALL)
    expected = batch.run()
    wide_draft = torch.cat((batch.draft, torch.full((len(ALL), 3, 2), 50.0)), -1)
    wide_target = torch.cat((batch.target, torch.full((len(ALL), 4, 5), 60.0)), -1)
    assert same(batch.run(draft_logits=wide_draft, target_logits=wide_target, vocab_size=6), expected)
    assert same(batch.run(target_logits=wide_target), expected), "the smaller width, where none is given"
    with pytest.raises(ValueError, match="vocab_size 9 exceeds the logits' width 8"):
        batch.run(draft_logits=wide_draft, target_logits=wide_target, vocab_size=9)


def test_half_precision_logits_are_widened() -> None:
    batch = Batch(6, ALL, dtype=torch.bfloat16)
    wide = batch.run(draft_logits=batch.draft.float(), target_logits=batch.target.float())
    assert same(batch.run(), wide)


def test_a_drafter_of_a_part_of_the_vocabulary_is_one_with_minus_infinity_elsewhere() -> None:
    known = torch.tensor([6, 1, 4, 3, 0])
    rules = [rule for rule in ALL for _ in range(6)]
    batch = Batch(9, rules)
    batch.params = [PARAMS[b % 6] for b in range(len(rules))]
    part = batch.draft[..., :5]
    whole = torch.full_like(batch.draft, -INF).index_copy(-1, known, part)
    best = known[part.argmax(-1)]
    other = known[batch.tokens % 5]
    greedy = torch.tensor([p.temperature == 0 for p in batch.params])[:, None]
    tokens = torch.where(greedy | (batch.tokens % 2 == 0), best, other)
    assert same(
        batch.run(draft_tokens=tokens, draft_logits=part, draft_index=known),
        batch.run(draft_tokens=tokens, draft_logits=whole),
    )
    padded = torch.cat((part, torch.full((len(rules), 3, 3), 70.0)), -1)
    assert same(
        batch.run(draft_tokens=tokens, draft_logits=padded, draft_index=known),
        batch.run(draft_tokens=tokens, draft_logits=whole),
    )
    tokens[1, 0] = 2
    with pytest.raises(ValueError, match=r"draft_tokens\[1, 0\] = 2 is not among the ids of draft_index"):
        batch.run(draft_tokens=tokens, draft_logits=part, draft_index=known)
    with pytest.raises(ValueError, match="draft_index has 5 ids for 4 columns"):
        batch.run(draft_tokens=tokens, draft_logits=part[..., :4], draft_index=known)


def test_keep_rules_never_build_the_drafters_whole_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Rows) -> Rows:
        raise AssertionError("the whole row was built")

    monkeypatch.setattr(Rows, "whole", refuse)
    known = torch.tensor([6, 1, 4, 3, 0])
    keep = [rule for rule in ALL if not rule.startswith(("mix", "lossy", "mentored", "target_support"))]
    keep = [rule for rule in keep if rule not in LAWLESS]
    batch = Batch(9, keep)
    batch.run(draft_tokens=known[batch.tokens % 5], draft_logits=batch.draft[..., :5], draft_index=known)
    batch = Batch(9, ["mix:weight=0.5"])
    batch.lengths += 1
    with pytest.raises(AssertionError, match="whole row"):
        batch.run(draft_tokens=known[batch.tokens % 5], draft_logits=batch.draft[..., :5], draft_index=known)


def test_argmax_drafts_have_a_one_hot_row_and_real_gates() -> None:
    """A kept draft stands for certain, another passes with p: what q = one-hot means, with q~ from the logits."""
    batch = 4000
    generator = torch.Generator().manual_seed(1)
    draft, target = torch.tensor([1.0, 0.8, 0.0]), torch.tensor([0.2, 1.5, 0.5])
    p = target.softmax(-1)
    uniforms = torch.rand(batch, 2, 2, generator=generator, dtype=torch.float64)
    arguments = {
        "draft_tokens": torch.zeros(batch, 1, dtype=torch.long),
        "draft_logits": draft.expand(batch, 1, 3),
        "target_logits": target.expand(batch, 2, 3),
        "sampling": batch_sampling(sampling(), batch),
        "uniforms": uniforms,
    }
    argmax = torch.arange(batch) % 2 == 0
    verdict = verify(rules=[parse_rule("strict")] * batch, argmax_drafts=argmax, **arguments)
    ratio = torch.where(argmax, p[0], p[0] / draft.softmax(-1)[0])
    assert torch.equal(verdict.accepted == 1, uniforms[:, 0, 0] < ratio)
    assert (verdict.next_token[argmax & (verdict.accepted == 0)] != 0).all(), "what was rejected is not drawn again"
    for alpha, kept in ((0.5, False), (0.6, True)):
        rules = [parse_rule(f"chow:alpha={alpha}")] * batch
        verdict = verify(rules=rules, argmax_drafts=torch.ones(batch, dtype=torch.bool), **arguments)
        assert torch.equal(verdict.accepted == 1, uniforms[:, 0, 0] < (1 if kept else p[0]))


def test_a_proposal_without_logits_is_one_hot_gates_included() -> None:
    batch = Batch(6, ["strict", "token_v3:alpha=0.8", "chow:alpha=0"] * 6)
    batch.lengths[:] = 3
    verdict = batch.run(draft_logits=None)
    assert (verdict.accepted[2::3] == 3).all(), "chow sees a drafter that is sure"
    onehot = torch.full_like(batch.draft, -INF).scatter(-1, batch.tokens[..., None], 0.0)
    assert same(verdict, batch.run(draft_logits=onehot))


@pytest.mark.parametrize(
    ("whose", "row", "holds"),
    [
        ("target", [0.0, NAN, 0.0], "NaN"),
        ("target", [0.0, INF, 0.0], r"\+inf"),
        ("target", [-INF, -INF, -INF], "nothing but -inf"),
        ("draft", [NAN, NAN, NAN], "NaN"),
        ("draft", [-INF, -INF, -INF], "nothing but -inf"),
    ],
)
@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("rule", ["strict", "token_v3:alpha=0.8"])
def test_bad_rows_are_named(whose: str, row: list[float], holds: str, temperature: float, rule: str) -> None:
    logits = {"draft": torch.zeros(3, 2, 3), "target": torch.zeros(3, 3, 3)}
    logits[whose][1, 1] = torch.tensor(row)
    with pytest.raises(LogitsError, match=rf"^{whose}_logits\[1, 1\] holds {holds}$") as caught:
        verify(
            torch.zeros(3, 2, dtype=torch.long),
            logits["draft"],
            logits["target"],
            [parse_rule(rule)] * 3,
            batch_sampling(sampling(temperature=temperature), 3),
            torch.full((3, 3, 2), 0.5),
        )
    assert (caught.value.whose, caught.value.sequence, caught.value.position) == (whose, 1, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(ALL), st.sampled_from(PARAMS))
def test_masked_tokens_are_never_emitted(seed: int, rule: str, params: object) -> None:
    """With a grammar both models' logits are -inf at what it forbids."""
    generator = torch.Generator().manual_seed(seed)
    draft, target = torch.randn(20, 2, 5, generator=generator), torch.randn(20, 3, 5, generator=generator)
    draft[..., 3:] = target[..., 3:] = -INF
    tokens = draft.argmax(-1) if params.temperature == 0 else torch.randint(3, (20, 2), generator=generator)
    uniforms = torch.rand(20, 3, 2, generator=generator, dtype=torch.float64)
    verdict = verify(tokens, draft, target, [parse_rule(rule)] * 20, batch_sampling(params, 20), uniforms)
    assert (verdict.next_token < 3).all()


def test_the_extreme_uniforms_draw_tokens_that_have_mass() -> None:
    target = torch.tensor([[[-INF, 0.0, 1.0, -INF]] * 2])
    for u in (0.0, 1 - 2.0**-53):
        verdict = verify(
            torch.tensor([[1]]),
            torch.tensor([[[-INF, 2.0, 0.0, -INF]]]),
            target,
            [parse_rule("strict")],
            batch_sampling(sampling(), 1),
            torch.full((1, 2, 2), u, dtype=torch.float64),
        )
        assert verdict.next_token[0] in (1, 2)
        assert verdict.accepted[0] == int(u == 0)
