"""What the parts of a round cost on this machine: the engine's own code, one sequence, in interleaved repetitions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, TypeVar

import torch

from spec_cascade.decoding.judging import Scored, judge
from spec_cascade.decoding.models import Feed, Proposal
from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.engines.pytorch.drafters import ModelDrafter
from spec_cascade_build.drafter.score_prediction import LONGEST, Costs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade_build.drafter.score_pair import ScoredPair
    from spec_cascade_build.drafter.score_rules import Way

T = TypeVar("T")

_WARM_UP = 3
_VERIFY_EVERY = 3
"""Repetitions for each one in which drafts are judged, too: there are many rules, and some are slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredCosts:
    """Medians, in seconds.

    Attributes:
        context: Tokens that the caches held.
        repetitions: Of the forwards; drafts are judged in a third of them.
        draft: A step of the drafter, by the temperature.
        score: The target's forward over K + 1 tokens, by K from 0.
        verify: By the way's name: judging K drafts and drawing the next token, by K from 0.
    """

    context: int
    repetitions: int
    draft: Mapping[float, float]
    score: tuple[float, ...]
    verify: Mapping[str, tuple[float, ...]]

    def of(self, way: Way) -> Costs:
        """With one way of decoding."""
        return Costs(self.draft[way.temperature], self.score, self.verify[way.name])


def measure(
    pair: ScoredPair, token_ids: Seq[int], ways: Seq[Way], *, repetitions: int, advance: Callable[[int], None]
) -> MeasuredCosts:
    """Measure every part in every repetition, in an order that turns.

    Args:
        pair: The models; their first slots are empty before and after.
        token_ids: What the caches hold, and one token more; `LONGEST` further ones must fit.
        ways: Of decoding.
        repetitions: That count, after a few to warm up.
        advance: Told after each repetition that one is done.
    """
    bench = _Bench(pair, token_ids)
    draft: dict[float, list[float]] = defaultdict(list)
    score: dict[int, list[float]] = defaultdict(list)
    verify: dict[tuple[str, int], list[float]] = defaultdict(list)
    by_temperature = {way.temperature: way for way in ways}
    for repetition in range(-_WARM_UP, repetitions):
        if repetition == 0:
            for taken in (draft, score, verify):
                taken.clear()
        seed = repetition + _WARM_UP
        proposals = {}
        for temperature, way in by_temperature.items():
            proposals[temperature], seconds = bench.draft(way, seed)
            draft[temperature].append(seconds)
        for k in range(LONGEST + 1):
            length = (k + seed) % (LONGEST + 1)
            logits, seconds = bench.score(proposals[ways[0].temperature], length)
            score[length].append(seconds)
            for way in ways if repetition % _VERIFY_EVERY == 0 else ():
                verify[way.name, length].append(bench.verify(way, proposals[way.temperature], logits, seed))
        if repetition >= 0:
            advance(1)
    bench.close()
    return MeasuredCosts(
        context=len(token_ids) - 1,
        repetitions=repetitions,
        draft={temperature: median(taken) for temperature, taken in draft.items()},
        score=tuple(median(score[k]) for k in range(LONGEST + 1)),
        verify={way.name: tuple(median(verify[way.name, k]) for k in range(LONGEST + 1)) for way in ways},
    )


class _Bench:
    """Both models with the same text in their caches, and one token of it still to be read."""

    def __init__(self, pair: ScoredPair, token_ids: Seq[int]) -> None:
        self._pair = pair
        self._token_ids = list(token_ids)
        self._drafter = ModelDrafter(
            pair.drafter, vocab_size=pair.vocab_size, prefill_chunk=1, head=pair.head, argmax=pair.argmax_drafts
        )
        for model in (pair.target, pair.drafter):
            model.forward([Feed(0, self._token_ids[:-1], rows=0)])

    def draft(self, way: Way, seed: int) -> tuple[Proposal, float]:
        """Draft the longest block; the seconds are those of one step."""
        self._pair.drafter.truncate(0, len(self._token_ids) - 1)
        sequence = self._sequence(way, seed)
        # A whole block, since in a round, too, the first step alone finds its weights driven out by the target's.
        proposal, seconds = self._timed(lambda: self._drafter.propose([sequence], [LONGEST]))
        return proposal, seconds / LONGEST

    def score(self, proposal: Proposal, length: int) -> tuple[Tensor, float]:
        """The target's rows ``[1, K + 1, V]`` for so many drafts."""
        self._pair.target.truncate(0, len(self._token_ids) - 1)
        drafted = proposal.token_ids[0, :length] if length else None
        feed = Feed(0, self._token_ids[-1:], rows=length + 1, drafted=drafted)
        logits, seconds = self._timed(lambda: self._pair.target.forward([feed]))
        return logits.unsqueeze(0), seconds

    def verify(self, way: Way, proposal: Proposal, logits: Tensor, seed: int) -> float:
        """Seconds of judging as many drafts as there are rows less one."""
        length = logits.shape[1] - 1
        if length == 0 or proposal.logits is None:
            drafts = Proposal.empty(1, self._pair.device)
        else:
            tokens, rows = proposal.token_ids[:, :length], proposal.logits[:, :length]
            drafts = replace(proposal, token_ids=tokens, logits=rows, lengths=[length])
        scored = Scored([self._sequence(way, seed)], drafts, logits, length + 1)
        return self._timed(lambda: judge(scored, vocab_size=self._pair.vocab_size))[1]

    def close(self) -> None:
        """Empty the slots."""
        for model in (self._pair.target, self._pair.drafter):
            model.truncate(0, 0)

    def _sequence(self, way: Way, seed: int) -> Sequence:
        request = GenerationRequest(
            prompt_ids=tuple(self._token_ids[:1]), sampling=SamplingParams(temperature=way.temperature, seed=seed)
        )
        return Sequence(request, way.rule, LONGEST, list(self._token_ids), speculates=True, slot=0)

    def _timed(self, work: Callable[[], T]) -> tuple[T, float]:
        self._wait()
        start = perf_counter()
        with torch.inference_mode():
            done = work()
        self._wait()
        return done, perf_counter() - start

    def _wait(self) -> None:
        if self._pair.device.type == "cuda":
            torch.cuda.synchronize()
