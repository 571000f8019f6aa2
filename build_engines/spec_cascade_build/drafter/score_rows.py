"""Both models' rows along a text, and how each way of decoding takes what would be drafted from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from spec_cascade.decoding.models import Feed
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import EngineError
from spec_cascade.rules import Place, Rows
from spec_cascade.verify import BatchSampling
from spec_cascade.verify.grouping import rules_of_rows
from spec_cascade.verify.sampling import argmax, one_hot
from spec_cascade_build.drafter.acceptance import acceptance

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from spec_cascade.rules import DeferralRule
    from spec_cascade_build.drafter.score_pair import ScoredPair
    from spec_cascade_build.drafter.score_passages import Passage
    from spec_cascade_build.drafter.score_rules import Way

CHUNK = 64
"""Most rows of each model in memory."""


@dataclass(slots=True)
class PairRows:
    """The rows of n neighbouring places.

    Attributes:
        draft_logits: ``[n, V]``, or ``[n, Vd]`` with ``head``.
        target_logits: ``[n, V]``.
        head: The tokens that the drafter has logits for, ``[Vd]``; None is all.
        argmax_drafts: Whether q is the one-hot row of the drafter's argmax.
    """

    draft_logits: Tensor
    target_logits: Tensor
    head: Tensor | None
    argmax_drafts: bool

    def at(self, temperature: float) -> Rows:
        """q, p and the gates."""
        sampling = BatchSampling.of([SamplingParams(temperature=temperature)], self.target_logits.device)
        q, p = (sampling.probs(logits[None])[0] for logits in (self.draft_logits, self.target_logits))
        q_gate, p_gate = (q, p) if sampling.plain else self._gates()
        if self.argmax_drafts:
            q = one_hot(argmax(self.draft_logits.float()), q)
        return Rows(q, p, q_gate, p_gate, self.head)

    def _gates(self) -> tuple[Tensor, Tensor]:
        return self.draft_logits.float().softmax(-1), self.target_logits.float().softmax(-1)


@torch.inference_mode()
def acceptances(
    pair: ScoredPair, passages: Sequence[Passage], ways: Sequence[Way], advance: Callable[[int], None]
) -> dict[str, list[NDArray[np.float64]]]:
    """Acceptance of a token drafted at each scored place.

    Args:
        pair: The models; their first slots are empty before and after.
        passages: The texts.
        ways: Of decoding.
        advance: Told after each text that one is done.

    Returns:
        By the name of the way, an array for each text.

    Raises:
        EngineError: A row makes no distribution.
    """
    found: dict[str, list[NDArray[np.float64]]] = {way.name: [] for way in ways}
    for passage in passages:
        parts: dict[str, list[Tensor]] = {way.name: [] for way in ways}
        for first, rows in _chunks(pair, passage):
            by_temperature = {temperature: rows.at(temperature) for temperature in {way.temperature for way in ways}}
            for way in ways:
                parts[way.name].append(_taken(way.rule, by_temperature[way.temperature], passage, first))
        for name, tensors in parts.items():
            found[name].append(torch.cat(tensors).double().cpu().numpy())
        for model in (pair.target, pair.drafter):
            model.truncate(0, 0)
        advance(1)
    return found


def _chunks(pair: ScoredPair, passage: Passage) -> Iterator[tuple[int, PairRows]]:
    """The rows in front of the scored tokens, with the place of the first of these."""
    last = len(passage.token_ids) - 1
    width = pair.vocab_size if pair.head is None else len(pair.head)
    for start in range(0, last, CHUNK):
        end = min(start + CHUNK, last)
        rows = end - max(start, min(end, passage.begin - 1))
        feeds = [Feed(0, passage.token_ids[start:end], rows=rows)]
        target_logits = pair.target.forward(feeds)[:, : pair.vocab_size]
        draft_logits = pair.drafter.forward(feeds)[:, :width]
        if rows:
            yield end - rows + 1, PairRows(draft_logits, target_logits, pair.head, pair.argmax_drafts)


def _taken(rule: DeferralRule, rows: Rows, passage: Passage, first: int) -> Tensor:
    """Acceptance ``[n]`` at the places from ``first`` on, by the rule that holds at each."""
    size = len(rows.target_probs)
    block = torch.tensor([passage.token_ids[first : first + size]])
    place = Place(first - passage.begin, passage.token_ids[:first])
    distinct, which = rules_of_rows([rule], [place], block, torch.tensor([size]))
    taken = rows.target_probs.new_zeros(size)
    for number, here in enumerate(distinct):
        index = None if len(distinct) == 1 else (which[0] == number).nonzero().squeeze(-1).to(taken.device)
        if index is None:
            taken = acceptance(here, rows)
        else:
            taken[index] = acceptance(here, _some(rows, index))
    if not bool(taken.isfinite().all()):
        raise EngineError("a row of the models' logits makes no distribution")
    return taken


def _some(rows: Rows, index: Tensor) -> Rows:
    q, p = rows.draft_probs[index], rows.target_probs[index]
    q_gate = q if rows.draft_gate is rows.draft_probs else rows.draft_gate[index]
    p_gate = p if rows.target_gate is rows.target_probs else rows.target_gate[index]
    return Rows(q, p, q_gate, p_gate, rows.draft_index)
