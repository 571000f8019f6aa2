"""What a client was told of its request, held against what must be true of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason, TokenSource
from tests.unit.decoding.bench import MAX_SEQ_LEN, drained

if TYPE_CHECKING:
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.decoding.statistics import RequestStatistics
    from tests.unit.decoding.greedy import Greedy

END_TOKENS = frozenset({7, 29, 30, 31, 64})


@dataclass(eq=False)
class Told:
    """What a client was told of its request, and what the target alone would say.

    Attributes:
        greedy: Set where the output must be the target's own.
        asked: Why it must end with the next round, whatever it has.
        spoilt: The target's rows for it are NaN from now on.
    """

    sequence: Sequence
    greedy: Greedy | None
    token_ids: list[int] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    num_chunks: int = 0
    reason: FinishReason | None = None
    asked: FinishReason | None = None
    spoilt: bool = False

    def read(self) -> None:
        """Take the chunks that were sent."""
        for chunk in drained(self.sequence):
            assert self.reason is None, "nothing follows the last chunk"
            assert chunk.index == self.num_chunks
            assert len(chunk.sources) == len(chunk.token_ids)
            wanted = self.sequence.request.sampling.log_probs
            assert len(chunk.log_probs) == (len(chunk.token_ids) if wanted else 0)
            assert all(p <= 1e-5 for p in chunk.log_probs)
            assert chunk.token_ids or chunk.finish_reason is not None
            assert (chunk.statistics is not None) == (chunk.finish_reason is not None)
            assert (chunk.error is not None) == (chunk.finish_reason is FinishReason.ERROR)
            self.token_ids += chunk.token_ids
            self.sources += chunk.sources
            self.num_chunks += 1
            self.reason = chunk.finish_reason
        assert self.token_ids == self.sequence.output_ids
        check_counts(self.sequence.statistics, self.sources)
        self._check_end()

    def _check_end(self) -> None:
        sampling, ends = self.sequence.request.sampling, END_TOKENS.union(self.sequence.request.sampling.stop_token_ids)
        room = min(sampling.max_tokens, MAX_SEQ_LEN - len(self.sequence.request.prompt_ids))
        assert len(self.token_ids) <= room
        if self.reason is FinishReason.LENGTH:
            assert len(self.token_ids) == room
        elif self.reason is FinishReason.STOP:
            assert self.token_ids[-1] in ends
            assert len(self.token_ids) > sampling.min_tokens
        else:
            assert len(self.token_ids) < room
        complete = self.reason in (FinishReason.LENGTH, FinishReason.STOP)
        if self.greedy is not None:
            assert self.greedy.agrees(self.token_ids, complete=complete), "the output is not the target's own"


def check_counts(counts: RequestStatistics, sources: list[TokenSource]) -> None:
    """Nothing is counted that was not kept, and everything that was."""
    histogram, plain = counts.acceptance_histogram, sources.count(TokenSource.TARGET)
    assert counts.num_output_tokens == len(sources)
    assert counts.num_accepted_draft_tokens == sources.count(TokenSource.DRAFTER)
    assert counts.num_residual_tokens == sources.count(TokenSource.RESIDUAL)
    assert counts.num_bonus_tokens == sources.count(TokenSource.BONUS)
    assert counts.num_target_calls == counts.num_spec_steps + plain
    assert sum(histogram) == counts.num_spec_steps
    assert sum(j * n for j, n in enumerate(histogram)) == counts.num_accepted_draft_tokens
    assert sum(counts.drafted_per_position) == counts.num_draft_tokens
    assert sum(counts.accepted_per_position) == counts.num_accepted_draft_tokens
    pairs = zip(counts.accepted_per_position, counts.drafted_per_position, strict=True)
    assert all(accepted <= drafted for accepted, drafted in pairs)
    assert counts.num_deferrals <= counts.num_draft_tokens
