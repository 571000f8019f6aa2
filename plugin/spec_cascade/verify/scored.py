"""Drafted rows made ready for rules: logits checked, cut to the vocabulary, and turned into probabilities once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.errors import SpecCascadeError
from spec_cascade.rules.rows import Rows
from spec_cascade.verify.sampling import one_hot

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule
    from spec_cascade.verify.sampling import BatchSampling

Index = tuple["Tensor", ...]


class LogitsError(SpecCascadeError, ValueError):
    """A row of logits holds NaN, plus infinity, or nothing but minus infinity: no distribution can be made of it.

    Attributes:
        whose: ``draft`` or ``target``.
        sequence: Index of the sequence in the batch.
        position: Index of the row in its block.
    """

    def __init__(self, whose: str, sequence: int, position: int, holds: str) -> None:
        self.whose = whose
        self.sequence = sequence
        self.position = position
        super().__init__(f"{whose}_logits[{sequence}, {position}] holds {holds}")


@dataclass(frozen=True, slots=True)
class ScoredBlocks:
    """B drafted blocks with both models' rows.

    Attributes:
        tokens: ``[B, K]``.
        draft_probs: q, ``[B, K, V]``, or ``[B, K, Vd]`` with ``draft_index``.
        target_probs: p, ``[B, K+1, V]``.
        draft_logits: As wide as q; None where q~ is q.
        target_logits: ``[B, K+1, V]``; None where p~ is p.
        draft_index: Token ids ``[Vd]`` of the columns of q.
    """

    tokens: Tensor
    draft_probs: Tensor
    target_probs: Tensor
    draft_logits: Tensor | None
    target_logits: Tensor | None
    draft_index: Tensor | None

    @classmethod
    def of(
        cls,
        tokens: Tensor,
        draft_logits: Tensor | None,
        target_logits: Tensor,
        sampling: BatchSampling,
        *,
        lengths: Tensor,
        vocab: int,
        argmax_drafts: Tensor | None,
        draft_index: Tensor | None,
    ) -> ScoredBlocks:
        """See `verify` for the arguments.

        Raises:
            LogitsError: A row that is needed makes no distribution.
            ValueError: A drafted token is none that the drafter knows.
        """
        target_logits = _checked(target_logits[..., :vocab], "target", lengths + 1)
        target_probs = sampling.probs(target_logits)
        target_gate = None if sampling.plain else target_logits
        if draft_logits is None:
            q = one_hot(tokens, target_probs)
            return cls(tokens, q, target_probs, None, target_gate, None)
        if draft_index is not None:
            _check_known(tokens, draft_index, lengths)
        width = vocab if draft_index is None else len(draft_index)
        draft_logits = _checked(draft_logits[..., :width], "draft", lengths)
        q = sampling.probs(draft_logits)
        blocks = cls(tokens, q, target_probs, draft_logits, target_gate, draft_index)
        if argmax_drafts is not None:
            drafted = blocks.rows(None).column(tokens)
            q = torch.where(argmax_drafts[:, None, None], one_hot(drafted, q), q)
        elif sampling.plain:
            draft_logits = None
        return cls(tokens, q, target_probs, draft_logits, target_gate, draft_index)

    def rows(self, index: Index | None, rule: DeferralRule | None = None) -> Rows:
        """The rows at ``index`` (sequences, positions), all of them if None, with the gates that ``rule`` reads."""
        draft_gate = rule is not None and rule.reads_draft_gate
        target_gate = rule is not None and rule.reads_target_gate
        q, p = _at(self.draft_probs, index), self._target(self.target_probs, index)
        rows = Rows(
            q,
            p,
            self._draft_gate(q, index) if draft_gate else q.new_empty(0),
            self._target_gate(p, index) if target_gate else p.new_empty(0),
            self.draft_index,
        )
        return rows if rule is None or rule.drafter_columns else rows.whole()

    def _target(self, rows: Tensor, index: Index | None) -> Tensor:
        """Rows of drafted positions: all but the bonus token's."""
        return _at(rows[:, : self.tokens.shape[1]], index)

    def _draft_gate(self, q: Tensor, index: Index | None) -> Tensor:
        return q if self.draft_logits is None else _at(self.draft_logits, index).softmax(-1)

    def _target_gate(self, p: Tensor, index: Index | None) -> Tensor:
        return p if self.target_logits is None else self._target(self.target_logits, index).softmax(-1)


def widened(logits: Tensor, index: Tensor, vocab: int) -> Tensor:
    """Logits ``[..., vocab]`` of columns that are the tokens ``index`` ``[Vd]``: -inf, so no chance, at the others."""
    whole = logits.new_full((*logits.shape[:-1], vocab), float("-inf"))
    return whole.index_copy_(-1, index, logits[..., : len(index)])


def _at(rows: Tensor, index: Index | None) -> Tensor:
    return rows if index is None else rows[index]


def _check_known(tokens: Tensor, draft_index: Tensor, lengths: Tensor) -> None:
    unknown = ~(tokens.unsqueeze(-1) == draft_index).any(-1)
    unknown &= torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
    if bool(unknown.any()):
        sequence, position = unknown.nonzero()[0].tolist()
        token = int(tokens[sequence, position])
        raise ValueError(f"draft_tokens[{sequence}, {position}] = {token} is not among the ids of draft_index")


def _checked(logits: Tensor, whose: str, rows: Tensor) -> Tensor:
    """Widen half precision, and refuse logits of which the first ``rows`` ``[B]`` make no distribution."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    bad = ~logits.amax(-1).isfinite()
    bad &= torch.arange(logits.shape[1], device=logits.device) < rows[:, None]
    if bool(bad.any()):
        sequence, position = bad.nonzero()[0].tolist()
        row = logits[sequence, position]
        holds = "NaN" if bool(row.isnan().any()) else "+inf" if bool((row > 0).any()) else "nothing but -inf"
        raise LogitsError(whose, sequence, position, holds)
    return logits
