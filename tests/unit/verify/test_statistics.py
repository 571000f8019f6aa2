"""Chi-square tests, end to end on toy language models: draft, verify, commit, with the counter-based draws.

Each test samples the first three tokens of 20,000 requests, all in one batch, and compares their joint frequencies with
the product of the laws. Seeds are fixed, so a pass is a pass for ever; over all tests of this file together the chance
that a correct verifier fails one was 1e-3 (Bonferroni).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from scipy.stats import chisquare

from spec_cascade.rules import Place, parse_rule
from spec_cascade.rules.emission import emission
from spec_cascade.verify import Purpose, draw, round_uniforms, uniforms, verify
from tests.unit.rules.test_exact_law import WrongShortcut
from tests.unit.verify.toy import START, ToyModels, batch_sampling, sampling

if TYPE_CHECKING:
    from types import SimpleNamespace

    from spec_cascade.rules import DeferralRule

VOCAB, TOKENS, LENGTH, REQUESTS = 4, 3, 3, 20_000
RULES = [
    "strict",
    "chow:alpha=0.45",
    "diff:alpha=0.1",
    "opt:alpha=0.3",
    "divergence:alpha=0.25",
    "token_v1:alpha=0.3",
    "token_v2:alpha=0.2",
    "token_v3:alpha=0.5",
    "mix:weight=0.6",
    "lossy:alpha=0.4",
    "mentored:budget=0.05",
    "cactus:delta=0.3",
    "typical:epsilon=0.3,delta=0.2",
    "relaxed:top_n=2,delta=0.3",
    "ears:tolerance=0.4",
    "all_of(opt:alpha=0.5, token_v3:alpha=0.8)",
    "schedule(0=token_v3:alpha=0.8, 1=strict, 2=drafter_only)",
]
PARAMS = {"T1": sampling(), "T0.7 top 3": sampling(temperature=0.7, top_k=3)}
LEVEL = 1e-3 / (len(RULES) * len(PARAMS))


def sample(rule: DeferralRule, models: ToyModels, params: SimpleNamespace) -> torch.Tensor:
    """The first tokens of each request, ``[REQUESTS, TOKENS]``, by rounds of LENGTH drafts."""
    seeds = torch.arange(REQUESTS)
    output = torch.full((REQUESTS, TOKENS + LENGTH + 1), START)
    done = torch.zeros(REQUESTS, dtype=torch.long)
    batch = batch_sampling(params, REQUESTS)
    everyone = torch.arange(REQUESTS)
    while (done < TOKENS).any():
        context = torch.where(done > 0, output[everyone, (done - 1).clamp_min(0)], START)
        logits, drafted = [], []
        for k in range(LENGTH):
            logits.append(models.draft_logits[drafted[-1] if drafted else context])
            q = batch.probs(logits[-1][:, None])[:, 0]
            drafted.append(draw(q, uniforms(seeds, done + k, Purpose.DRAFT)))
        tokens = torch.stack(drafted, 1)
        verdict = verify(
            tokens,
            torch.stack(logits, 1),
            models.target_logits[torch.cat((context[:, None], tokens), 1)],
            [rule] * REQUESTS,
            batch,
            round_uniforms(seeds, done, LENGTH),
            places=[Place(n) for n in done.tolist()],
        )
        block = torch.cat((tokens, tokens[:, :1]), 1)
        block[everyone, verdict.accepted] = verdict.next_token
        for k in range(LENGTH + 1):
            emitted = (k <= verdict.accepted) & (done < TOKENS)
            output[everyone[emitted], (done + k)[emitted].clamp_max(output.shape[1] - 1)] = block[emitted, k]
        done += torch.where(done < TOKENS, verdict.accepted + 1, 0)
    return output[:, :TOKENS]


def joint_law(rule: DeferralRule, models: ToyModels) -> torch.Tensor:
    """``[V, V, V]``, from the rules' laws, or from what they emit where they have none."""

    def row(position: int, last: int) -> torch.Tensor:
        here = rule.at(Place(position))
        r = models.rows(last)
        return (
            here.law(r.draft_probs, r.target_probs, r.draft_gate, r.target_gate) if here.has_law else emission(here, r)
        )

    each = torch.stack([torch.stack([row(k, last) for last in range(VOCAB)]) for k in (1, 2)])
    return row(0, START)[:, None, None] * each[0][:, :, None] * each[1][None]


def p_value(rule: DeferralRule, params: SimpleNamespace, law_of: DeferralRule | None = None) -> float:
    models = ToyModels.of(VOCAB, params, seed=5)
    output = sample(rule, models, params)
    flat = (output * torch.tensor([VOCAB**2, VOCAB, 1])).sum(-1)
    counts = torch.bincount(flat, minlength=VOCAB**TOKENS).double()
    expected = joint_law(law_of or rule, models).flatten() * REQUESTS
    assert counts[expected == 0].sum() == 0, "tokens without mass never come"
    rare = expected < 5
    pooled = [
        torch.cat((row[~rare], row[rare].sum()[None])) if expected[rare].sum() > 0 else row[~rare]
        for row in (counts, expected)
    ]
    return float(chisquare(pooled[0].numpy(), pooled[1].numpy() / pooled[1].sum().item() * REQUESTS).pvalue)


@pytest.mark.parametrize("params", PARAMS.values(), ids=PARAMS)
@pytest.mark.parametrize("rule", RULES)
def test_output_has_the_rules_law(rule: str, params: SimpleNamespace) -> None:
    assert p_value(parse_rule(rule), params) > LEVEL


def test_the_test_sees_the_wrong_shortcut() -> None:
    rule = parse_rule("token_v3:alpha=0.5")
    assert p_value(WrongShortcut(rule), sampling(), law_of=rule) < 1e-9


def test_the_test_tells_neighbouring_parameters_apart() -> None:
    assert p_value(parse_rule("mix:weight=0.6"), sampling(), law_of=parse_rule("mix:weight=0.65")) < LEVEL
