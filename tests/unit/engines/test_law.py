"""End to end, the engine's output follows the rule's law: chi-square against laws computed from the models' own rows.

Each test samples the first tokens of many requests over two tiny random models. Their exact joint law is the product
of the rule's laws at the positions, computed in float64 from the models' rows. Seeds are fixed, so a pass is a pass
for ever; the bound on the p-value is 1e-3 over all tests (Bonferroni).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from scipy.stats import chisquare

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.shaping import Shaping
from spec_cascade.rules import parse_rule
from tests.tiny import noisy, tiny_engine, tiny_llama

if TYPE_CHECKING:
    from spec_cascade.rules import DeferralRule

VOCAB = 6
PROMPT = (1, 4, 2)
SAMPLES = 4000


@dataclass(frozen=True)
class Way:
    """A rule, and how is drafted and sampled; ``known`` are the tokens of a trimmed head."""

    rule: str
    argmax: bool = False
    confidence: float = 0.0
    sampling: dict[str, Any] = field(default_factory=dict)
    known: tuple[int, ...] | None = None

    def __str__(self) -> str:
        drafts = ("trimmed " if self.known else "") + ("argmax " if self.argmax else "")
        return f"{drafts}{self.rule} {self.confidence or ''} {' '.join(self.sampling)}"


KNOWN = (0, 2, 3, 5)
PENALTIES = {"repetition_penalty": 1.6, "presence_penalty": 0.7, "frequency_penalty": -0.4}
WAYS = [
    Way("strict"),
    Way("token_v3:alpha=0.6"),
    Way("opt:alpha=0.1"),
    Way("chow:alpha=0.55"),
    Way("diff:alpha=0.05"),
    Way("target_only"),
    Way("strict", argmax=True),
    Way("token_v3:alpha=0.6", argmax=True),
    Way("strict", confidence=0.3),
    Way("strict", sampling=PENALTIES),
    Way("token_v3:alpha=0.6", sampling=PENALTIES),
    Way("token_v3:alpha=0.6", known=KNOWN),
    Way("mix:weight=0.5", known=KNOWN),
    Way("strict", argmax=True, known=KNOWN),
    Way("token_v3:alpha=0.6", sampling=PENALTIES, known=KNOWN),
]
P_VALUE = 1e-3 / (len(WAYS) + 1)


def logits(
    model: torch.nn.Module, context: tuple[int, ...], way: Way, known: tuple[int, ...] | None = None
) -> torch.Tensor:
    with torch.inference_mode():
        row = model(torch.tensor([context])).logits[0, -1].double()
    if known is not None:
        row = row.where(torch.isin(torch.arange(VOCAB), torch.tensor(known)), -torch.inf)
    shaping = Shaping.of(SamplingParams(**way.sampling), PROMPT, bad_word_ids=(), end_ids=frozenset())
    return row if shaping is None else shaping.apply(row, context[len(PROMPT) :])


def joint_law(way: Way, target: torch.nn.Module, drafter: torch.nn.Module) -> torch.Tensor:
    """Law ``[V, V, V]`` of the first three tokens: the first comes from the target, in the prompt's own round."""
    parsed = parse_rule(way.rule)
    joint = torch.zeros(VOCAB, VOCAB, VOCAB, dtype=torch.float64)
    for first, chance in enumerate(logits(target, PROMPT, way).softmax(-1)):
        context = (*PROMPT, first)
        for second, next_chance in enumerate(law_at(parsed, way, target, drafter, context)):
            joint[first, second] = chance * next_chance * law_at(parsed, way, target, drafter, (*context, second))
    return joint


def law_at(
    rule: DeferralRule, way: Way, target: torch.nn.Module, drafter: torch.nn.Module, context: tuple[int, ...]
) -> torch.Tensor:
    gate, p = logits(drafter, context, way, way.known).softmax(-1), logits(target, context, way).softmax(-1)
    q = torch.zeros_like(gate).scatter_(-1, gate.argmax(-1, keepdim=True), 1) if way.argmax else gate
    return rule.law(q, p, gate, p)


def models() -> tuple[torch.nn.Module, torch.nn.Module]:
    target = tiny_llama(seed=3, layers=1, vocab=VOCAB)
    return target, noisy(target, 0.4)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_output_is_an_exact_sample_of_the_rules_law(way: Way) -> None:
    target, drafter = models()
    engine = tiny_engine(
        target,
        drafter,
        max_batch_size=64,
        max_seq_len=8,
        max_queue_size=SAMPLES,
        draft_length=2,
        argmax=way.argmax,
        confidence=way.confidence,
        known=way.known,
    )
    unguarded = parse_rule(f"{way.rule}{',' if ':' in way.rule else ':'}strict_prefix_tokens=0")
    counts = torch.zeros(VOCAB, VOCAB, VOCAB, dtype=torch.float64)
    try:
        runs = [
            engine.submit(
                # A fourth token, which may be a bonus, lets the third always be drafted.
                GenerationRequest(
                    prompt_ids=PROMPT,
                    rule=unguarded,
                    sampling=SamplingParams(seed=seed, max_tokens=4, **way.sampling),
                )
            )
            for seed in range(SAMPLES)
        ]
        for run in runs:
            first, second, third, _ = (t for chunk in run for t in chunk.token_ids)
            counts[first, second, third] += 1
        totals = engine.statistics().totals
    finally:
        engine.close()
    assert (totals.num_accepted_draft_tokens > 0) == parse_rule(way.rule).drafts
    if way.confidence:
        assert 0 < totals.drafted_per_position[1] < totals.drafted_per_position[0] < totals.num_target_calls
    assert p_value(counts, joint_law(way, target, drafter) * SAMPLES) > P_VALUE


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Of a chi-square test; cells too rare for its approximation are taken together."""
    common = expected >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    predicted = torch.cat([expected[common], expected[~common].sum()[None]])
    return float(chisquare(observed.numpy(), predicted.numpy()).pvalue)


def test_the_laws_can_be_told_apart_at_this_sample_size() -> None:
    strict, lossy, argmax, shaped, trimmed = (joint_law(WAYS[i], *models()) * SAMPLES for i in (0, 1, 7, 9, 11))
    for other in (lossy, argmax, shaped):
        assert p_value(other, strict) < P_VALUE
    for other in (argmax, trimmed):
        assert p_value(other, lossy) < P_VALUE
