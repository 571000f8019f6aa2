"""Toy language models whose law can be worked out: a table of logits by last token."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch

from spec_cascade.rules import Rows
from spec_cascade.verify import BatchSampling

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules import DeferralRule

START = -1
NO = -math.inf


def sampling(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)


def batch_sampling(params: SimpleNamespace, batch: int) -> BatchSampling:
    return BatchSampling.of([params] * batch)


def probabilities(logits: Tensor, params: SimpleNamespace) -> Tensor:
    """A sampling row, as its definition says; temperature and top-k only."""
    row = logits.tolist()
    if params.temperature == 0:
        row = [0.0 if v == row.index(max(row)) else NO for v in range(len(row))]
    else:
        row = [x / params.temperature for x in row]
    if params.top_k:
        order = sorted(range(len(row)), key=lambda v: (-row[v], v))
        row = [x if v in order[: params.top_k] else NO for v, x in enumerate(row)]
    weights = [math.exp(x - max(row)) for x in row]
    return torch.tensor([w / sum(weights) for w in weights], dtype=torch.float64)


@dataclass(frozen=True)
class Decision:
    """A rule at one position, in plain numbers: lists over the vocabulary.

    Attributes:
        drafter: q.
        acceptance: Of each token, were it drafted.
        deferred: At each token.
        residual: The row that replaces each token.
        law: Empty if the rule has none.
    """

    drafter: list[float]
    acceptance: list[float]
    deferred: list[bool]
    residual: list[list[float]]
    law: list[float]


@dataclass(frozen=True)
class ToyModels:
    """A drafter and a target over V tokens.

    Attributes:
        draft_logits: ``[V + 1, V]``; the row of the last token, the last row for the start.
        target_logits: As above.
        params: Sampling parameters.
        known: The tokens that the drafter knows; it gives the others no chance. None is all.
    """

    draft_logits: Tensor
    target_logits: Tensor
    params: SimpleNamespace
    known: Tensor | None = None
    _decisions: dict[tuple[DeferralRule, int], Decision] = field(default_factory=dict)

    @classmethod
    def of(cls, vocab: int, params: SimpleNamespace, seed: int = 0, known: tuple[int, ...] | None = None) -> ToyModels:
        """Random rows, the first of which are equal, disjoint in part, one-hot."""
        generator = torch.Generator().manual_seed(100 * vocab + seed)
        draft = torch.randn(vocab + 1, vocab, generator=generator, dtype=torch.float64) * 1.5
        target = draft * 0.5 + torch.randn(vocab + 1, vocab, generator=generator, dtype=torch.float64)
        target[0] = draft[0]
        draft[1, 0] = target[1, 1] = NO
        if vocab > 2:
            draft[2, 1:] = NO
            target[2, 0] = target[2, 1]
        if known is None:
            return cls(draft, target, params)
        draft[:, [token for token in range(vocab) if token not in known]] = NO
        return cls(draft, target, params, torch.tensor(known))

    @property
    def vocab(self) -> int:
        return self.draft_logits.shape[-1]

    def rows(self, last: int) -> Rows:
        """The four rows after a token."""
        plain = sampling()
        return Rows(
            probabilities(self.draft_logits[last], self.params),
            probabilities(self.target_logits[last], self.params),
            probabilities(self.draft_logits[last], plain),
            probabilities(self.target_logits[last], plain),
        )

    def decision(self, rule: DeferralRule, last: int) -> Decision:
        """What a rule does after a token."""
        key = rule, last
        if key not in self._decisions:
            r, drafted = self.rows(last), torch.arange(self.vocab)
            each = Rows(*(row.expand(self.vocab, -1) for row in (r.draft_probs, r.target_probs, *gates(r))))
            residual = rule.residual(each, drafted)
            # As in the verifier: what is rejected by rounding alone is replaced from the target's row.
            residual = torch.where(residual.sum(-1, keepdim=True) > 1e-12, residual, r.target_probs)
            self._decisions[key] = Decision(
                drafter=r.draft_probs.tolist(),
                acceptance=rule.acceptance(r).tolist(),
                deferred=rule.deferred(each, drafted).tolist(),
                residual=(residual / residual.sum(-1, keepdim=True)).tolist(),
                law=rule.law(r.draft_probs, r.target_probs, *gates(r)).tolist() if rule.has_law else [],
            )
        return self._decisions[key]


def gates(rows: Rows) -> tuple[Tensor, Tensor]:
    return rows.draft_gate, rows.target_gate
