"""`verify` itself samples the rules' laws: every branch is entered from both sides of its borders, to 1e-12.

A round has these branches: a drafted path, the number of drafts that stand, the token that follows. Each test puts the
injected uniforms just inside every border of every branch, for all rules in one batch, and sees `verify` take that
branch; so the branch's probability is what the borders say, to twice the distance from them. From these
probabilities the law of the output is summed up and compared with the product of the rules' laws.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.rules import Place, parse_rule
from spec_cascade.verify import verify
from tests.unit.rules.rows_for_tests import COMPOSED, LAWLESS, SPECS
from tests.unit.verify.toy import START, ToyModels, batch_sampling, sampling

if TYPE_CHECKING:
    from types import SimpleNamespace

    from spec_cascade.rules import DeferralRule

EXACT = 1e-12
GUARDED = [
    "token_v3:alpha=0.8,strict_prefix_tokens=6",
    "drafter_only:strict_prefix_tokens=7",
    "schedule(0=strict, 6=token_v3:alpha=0.5, 7=drafter_only)",
    "phase(token_v3:alpha=0.8):start=1,end=0",
    "target_support(phase(drafter_only:strict_prefix_tokens=1):start=0,end=1)",
    "schedule(0=ears:tolerance=0.5, 6=phase(cactus:delta=1):start=0,end=1)",
]
RULES = [*SPECS, *COMPOSED, *LAWLESS, *GUARDED]
BEFORE = Place(5, [1, 0, 1])
TEMPERATURES = {
    "T1": sampling(),
    "T0.6": sampling(temperature=0.6),
    "T0": sampling(temperature=0),
    "top2": sampling(temperature=1.3, top_k=2),
}


@dataclass(frozen=True)
class Branch:
    """One end of one round: its rule, draft, what must come of it, the uniforms that lead there, its probability."""

    rule: str
    path: tuple[int, ...]
    accepted: int
    token: int
    deferred: tuple[bool, ...]
    uniforms: tuple[tuple[float, float], ...]
    probability: float

    @property
    def output(self) -> tuple[int, ...]:
        return (*self.path[: self.accepted], self.token)


def rule_at(rule: DeferralRule, path: tuple[int, ...], k: int) -> DeferralRule:
    here = rule.at(Place(BEFORE.position + k, [*BEFORE.token_ids, *path[:k]]))
    return here if here.lossy else parse_rule("strict")


def branches(spec: str, models: ToyModels, length: int) -> list[Branch]:
    """Every branch of a round, at each border of its uniforms."""
    rule = parse_rule(spec)
    return [
        branch
        for path in product(range(models.vocab), repeat=length)
        for k in range(length + 1)
        # Drafts behind the first rejection do not matter: one tail stands for all.
        if not any(path[k + 1 :])
        for branch in ends(spec, rule, path, k, models)
    ]


def ends(spec: str, rule: DeferralRule, path: tuple[int, ...], k: int, models: ToyModels) -> list[Branch]:
    """The branches in which exactly ``k`` tokens of ``path`` stand."""
    length = len(path)
    lasts = (START, *path)
    decisions = [models.decision(rule_at(rule, path, j), lasts[j]) for j in range(min(k + 1, length))]
    chances = [decision.acceptance[path[j]] for j, decision in enumerate(decisions)]
    stands = prod(decision.drafter[path[j]] * chances[j] for j, decision in enumerate(decisions[:k]))
    if k < length:
        rejects = decisions[k].drafter[path[k]] * (1 - chances[k])
        shares = decisions[k].residual[path[k]]
        last = [chances[k] + EXACT, 1 - EXACT]
    else:
        rejects, last = 1.0, [0.0, 1 - EXACT]
        shares = models.rows(lasts[length]).target_probs.tolist()
    if stands * rejects <= EXACT:
        return []
    deferred = tuple(decision.deferred[path[j]] for j, decision in enumerate(decisions))
    before = ([(0.0, 0.5)] * k, [(chance - EXACT, 0.5) for chance in chances[:k]])
    return [
        Branch(
            rule=spec,
            path=path,
            accepted=k,
            token=token,
            deferred=deferred + (False,) * (length - len(deferred)),
            uniforms=(*before[side], (last[side], u), *[(0.0, 0.0)] * (length - k)),
            probability=stands * rejects * shares[token] / 4,
        )
        for token, u in borders(shares)
        for side in (0, 1)
    ]


def borders(shares: list[float]) -> list[tuple[int, float]]:
    """Uniforms just inside both borders of each token's share."""
    found, below = [], 0.0
    for token, share in enumerate(shares):
        if share > 4 * EXACT:
            found += [(token, below + EXACT), (token, below + share - EXACT)]
        below += share
    return found


@pytest.mark.parametrize("name", TEMPERATURES)
@pytest.mark.parametrize(
    ("vocab", "length", "known"),
    [(2, 3, None), (3, 2, None), (4, 1, None), (3, 2, (0, 2)), (4, 1, (0, 2, 3))],
    ids=lambda value: None if isinstance(value, int) else "all" if value is None else "part",
)
def test_verify_takes_every_branch_and_the_branches_sum_to_the_laws(
    vocab: int, length: int, known: tuple[int, ...] | None, name: str
) -> None:
    models = ToyModels.of(vocab, TEMPERATURES[name], known=known)
    found = [branch for spec in RULES for branch in branches(spec, models, length)]
    run_through_verify(found, models, TEMPERATURES[name])
    for spec in RULES:
        rule = parse_rule(spec)
        if all(rule_at(rule, path, k).has_law for path in product(range(vocab), repeat=length) for k in range(length)):
            check_law(spec, [branch for branch in found if branch.rule == spec], models, length)


def run_through_verify(found: list[Branch], models: ToyModels, params: SimpleNamespace) -> None:
    tokens = torch.tensor([branch.path for branch in found])
    batch = len(found)
    contexts = torch.cat((torch.full((batch, 1), START), tokens), 1)
    verdict = verify(
        tokens,
        models.draft_logits[contexts[:, :-1]][..., slice(None) if models.known is None else models.known],
        models.target_logits[contexts],
        [parse_rule(branch.rule) for branch in found],
        batch_sampling(params, batch),
        torch.tensor([branch.uniforms for branch in found], dtype=torch.float64),
        places=[BEFORE] * batch,
        draft_index=models.known,
    )
    for branch, accepted, token, deferred in zip(
        found, verdict.accepted.tolist(), verdict.next_token.tolist(), verdict.deferred.tolist(), strict=True
    ):
        assert (accepted, token, tuple(deferred)) == (branch.accepted, branch.token, branch.deferred), branch


def check_law(spec: str, found: list[Branch], models: ToyModels, length: int) -> None:
    """The outputs of a round, each carried on to ``length`` tokens by its law, have the product of the laws."""
    rule = parse_rule(spec)
    whole = sum(branch.probability for branch in found)
    assert abs(whole - 1) < EXACT * len(found), spec
    for output in product(range(models.vocab), repeat=length):
        laws = [
            models.decision(rule_at(rule, output, k), output[k - 1] if k else START).law[token]
            for k, token in enumerate(output)
        ]
        summed = sum(
            branch.probability * prod(laws[len(branch.output) :])
            for branch in found
            if branch.output[:length] == output[: len(branch.output)]
        )
        assert abs(summed - prod(laws)) < EXACT, (spec, output)
