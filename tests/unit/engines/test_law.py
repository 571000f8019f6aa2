"""End to end, the engine's output follows the rule's law: chi-square against laws computed from the models' own rows.

Each test samples the first tokens of many requests over two tiny random models. Their exact joint law is the product
of the rule's laws at the positions, computed in float64 from the models' rows. Seeds are fixed, so a pass is a pass
for ever; the bound on the p-value is 1e-3 over all tests (Bonferroni).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from scipy.stats import chisquare

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import parse_rule
from tests.tiny import noisy, tiny_engine, tiny_llama

if TYPE_CHECKING:
    from spec_cascade.rules import DeferralRule

VOCAB = 6
PROMPT = (1, 4, 2)
SAMPLES = 4000
RULES = ["strict", "token_v3:alpha=0.6", "opt:alpha=0.1", "chow:alpha=0.55", "diff:alpha=0.05", "target_only"]
P_VALUE = 1e-3 / (len(RULES) + 1)


def rows(model: torch.nn.Module, context: tuple[int, ...]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([context])).logits[0, -1].double().softmax(-1)


def joint_law(rule: str, target: torch.nn.Module, drafter: torch.nn.Module) -> torch.Tensor:
    """Law ``[V, V, V]`` of the first three tokens: the first comes from the target, in the prompt's own round."""
    parsed = parse_rule(rule)
    joint = torch.zeros(VOCAB, VOCAB, VOCAB, dtype=torch.float64)
    for first, chance in enumerate(rows(target, PROMPT)):
        context = (*PROMPT, first)
        for second, next_chance in enumerate(law_at(parsed, target, drafter, context)):
            joint[first, second] = chance * next_chance * law_at(parsed, target, drafter, (*context, second))
    return joint


def law_at(
    rule: DeferralRule, target: torch.nn.Module, drafter: torch.nn.Module, context: tuple[int, ...]
) -> torch.Tensor:
    q, p = rows(drafter, context), rows(target, context)
    return rule.law(q, p, q, p)


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    target = tiny_llama(seed=3, layers=1, vocab=VOCAB)
    return target, noisy(target, 0.4)


@pytest.mark.parametrize("rule", RULES)
def test_output_is_an_exact_sample_of_the_rules_law(rule: str) -> None:
    target, drafter = models()
    engine = tiny_engine(target, drafter, max_batch_size=64, max_seq_len=8, max_queue_size=SAMPLES, draft_length=2)
    unguarded = parse_rule(f"{rule}{',' if ':' in rule else ':'}strict_prefix_tokens=0")
    counts = torch.zeros(VOCAB, VOCAB, VOCAB, dtype=torch.float64)
    try:
        runs = [
            engine.submit(
                # A fourth token, which may be a bonus, lets the third always be drafted.
                GenerationRequest(prompt_ids=PROMPT, rule=unguarded, sampling=SamplingParams(seed=seed, max_tokens=4))
            )
            for seed in range(SAMPLES)
        ]
        for run in runs:
            first, second, third, _ = (t for chunk in run for t in chunk.token_ids)
            counts[first, second, third] += 1
        accepted = engine.statistics().totals.num_accepted_draft_tokens
    finally:
        engine.close()
    assert (accepted > 0) == parse_rule(rule).drafts
    assert p_value(counts, joint_law(rule, target, drafter) * SAMPLES) > P_VALUE


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of a chi-square test; cells too rare for its approximation are taken together."""
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    predicted = torch.cat([expected[common], expected[~common].sum()[None]])
    return float(chisquare(observed.numpy(), predicted.numpy()).pvalue)


def test_the_laws_can_be_told_apart_at_this_sample_size() -> None:
    strict, lossy = (joint_law(rule, *models()) * SAMPLES for rule in ("strict", "token_v3:alpha=0.6"))
    assert p_value(lossy, strict) < P_VALUE
