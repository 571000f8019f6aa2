"""The decoding loop: schedule, draft, score, verify, commit, emit.

One call of `DecodingLoop.step` is a round for every live request. A request's tokens are its prompt and output; the
target's cache holds all of them but the newest, which the next round feeds together with the draft. The drafter's
cache may lack one token more: the last token of a block that was accepted whole is fed with the next round's first
draft step, where it costs nothing, instead of in a forward of its own.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.models import Feed, Proposal
from spec_cascade.decoding.request import FinishReason, TokenSource
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.verify import BatchSampling, Purpose, draw, round_uniforms, uniforms, verify_and_report

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.models import Drafter, LanguageModel
    from spec_cascade.decoding.scheduler import Scheduler
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.decoding.stop import StopConditions


@dataclass(frozen=True, slots=True)
class Block:
    """What one round gave one sequence, before any stop condition.

    Attributes:
        token_ids: Accepted drafts and the token that follows them.
        drafted: Tokens that had been drafted.
        deferred: Per drafted token, whether the rule deferred there.
        verifier: Which verifier judged the drafts; empty where there were none.
    """

    token_ids: list[int]
    drafted: int
    deferred: list[bool]
    verifier: str

    @property
    def accepted(self) -> int:
        """Drafted tokens that stand."""
        return len(self.token_ids) - 1

    @property
    def sources(self) -> list[TokenSource]:
        """Who wrote each token."""
        if self.drafted == 0:
            return [TokenSource.TARGET]
        last = TokenSource.BONUS if self.accepted == self.drafted else TokenSource.RESIDUAL
        return [TokenSource.DRAFTER] * self.accepted + [last]


class DecodingLoop:
    """Runs the rounds of all live requests on one target and one drafter.

    Args:
        target: Scores and decides.
        drafter: Proposes; None decodes with the target alone.
        scheduler: Holds the sequences.
        stop: Where outputs end.
        prefill_chunk: Most prompt tokens of one request in one forward, so that a long prompt stalls nobody.
        vocab_size: Token ids that exist; wider logits are padding.
        device: Where the logits live.
    """

    def __init__(
        self,
        target: LanguageModel,
        drafter: Drafter | None,
        scheduler: Scheduler,
        stop: StopConditions,
        *,
        prefill_chunk: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.target = target
        self.drafter = drafter
        self.scheduler = scheduler
        self._stop = stop
        self._prefill_chunk = prefill_chunk
        self._vocab_size = vocab_size
        self._device = device
        self._statistics = EngineStatistics()
        self._statistics_lock = Lock()

    @torch.inference_mode()
    def step(self) -> None:
        """One round for every live request."""
        batch = self._schedule()
        if not batch:
            return
        proposal = self._draft(batch)
        scored, logits = self._score(batch, proposal)
        blocks = self._verify(scored, proposal.take([s.slot for s in scored]), logits)
        for sequence, block in zip(scored, blocks, strict=True):
            self._commit(sequence, block)

    def _schedule(self) -> list[Sequence]:
        """The live sequences, in the order of their slots."""
        for sequence in self.scheduler.drop_waiting():
            self._report(sequence, FinishReason.CANCELLED)
        for sequence in [s for s in self.scheduler.running if s.cancelled.is_set()]:
            self.finish(sequence, FinishReason.CANCELLED)
        self.scheduler.admit()
        return list(self.scheduler.running)

    def _draft(self, batch: list[Sequence]) -> Proposal:
        lengths = [self._draft_length(s) for s in batch]
        if self.drafter is None or not any(s.drafts for s in batch):
            return Proposal.empty(len(batch), self._device)
        return self.drafter.propose(batch, lengths)

    def _draft_length(self, sequence: Sequence) -> int:
        """K of this round: none while the prompt is in process, less near the end of the output."""
        if not sequence.drafts or self._pending(sequence) > 1:
            return 0
        room = self._stop.room(len(sequence.request.prompt_ids), sequence.num_emitted, sequence.request.sampling)
        return min(sequence.draft_length, room - 1)

    def _pending(self, sequence: Sequence) -> int:
        return len(sequence.token_ids) - self.target.length(sequence.slot)

    def _score(self, batch: list[Sequence], proposal: Proposal) -> tuple[list[Sequence], Tensor]:
        """Feed every sequence's pending tokens and draft to the target in one forward.

        Returns:
            The sequences that get a token this round, and their logits ``[B, K+1, V]``.
        """
        feeds: list[Feed] = []
        scored: list[Sequence] = []
        drafts = proposal.token_ids.tolist()
        for sequence, draft, length in zip(batch, drafts, proposal.lengths, strict=True):
            pending = sequence.token_ids[self.target.length(sequence.slot) :]
            if len(pending) > self._prefill_chunk:
                feeds.append(Feed(sequence.slot, pending[: self._prefill_chunk], rows=0))
                continue
            feeds.append(Feed(sequence.slot, pending + draft[:length], rows=length + 1))
            scored.append(sequence)
        logits = self.target.forward(feeds)
        return scored, _padded(logits, [feed.rows for feed in feeds if feed.rows])

    def _verify(self, scored: list[Sequence], proposal: Proposal, logits: Tensor) -> list[Block]:
        if not scored:
            return []
        sampling = BatchSampling.of([s.request.sampling for s in scored], self._device)
        seeds = torch.tensor([s.seed for s in scored], device=self._device)
        positions = torch.tensor([s.num_emitted for s in scored], device=self._device)
        if not any(proposal.lengths):
            # Off is off: no drafts, so no verifier; the target's row is sampled as plain decoding does it.
            probs = sampling.probs(logits[:, 0, : self._vocab_size].float().unsqueeze(1)).squeeze(1)
            tokens = draw(probs, uniforms(seeds, positions, Purpose.DRAW))
            return [Block([token], 0, [], "") for token in tokens.tolist()]
        length = proposal.token_ids.shape[1]
        verdict, ran = verify_and_report(
            proposal.token_ids,
            proposal.logits,
            logits,
            [s.rule for s in scored],
            sampling,
            round_uniforms(seeds, positions, length),
            draft_lengths=torch.tensor(proposal.lengths, device=self._device),
            places=[s.place for s in scored],
            vocab_size=self._vocab_size,
        )
        # The verdict is on the host, whatever device judged.
        packed = [
            verdict.accepted[:, None],
            verdict.next_token[:, None],
            verdict.deferred,
            proposal.token_ids.cpu(),
        ]
        blocks = []
        for drafted, (accepted, token, *rest) in zip(proposal.lengths, torch.cat(packed, 1).tolist(), strict=True):
            deferred, draft = rest[:drafted], rest[length:]
            blocks.append(Block([*draft[:accepted], token], drafted, [bool(d) for d in deferred], str(ran)))
        return blocks

    def _commit(self, sequence: Sequence, block: Block) -> None:
        """Append what stands, roll both caches back to it, count it, and send it."""
        prompt_length = len(sequence.request.prompt_ids)
        kept, reason = self._stop.cut(prompt_length, sequence.output_ids, block.token_ids, sequence.request.sampling)
        sequence.token_ids.extend(kept)
        self.target.truncate(sequence.slot, len(sequence.token_ids) - 1)
        if self.drafter is not None:
            self.drafter.truncate(sequence.slot, len(sequence.token_ids) - 1)
        sources = block.sources[: len(kept)]
        _count(sequence, block, sources)
        if reason is None:
            sequence.emit(kept, sources, None)
        else:
            self.finish(sequence, reason, kept, sources)

    def finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[TokenSource] = (),
        error: str | None = None,
    ) -> None:
        """Free a live sequence's slot and send its last chunk."""
        source, destination = self.scheduler.release(sequence)
        for model in (self.target, self.drafter):
            if model is None:
                continue
            if source != destination:
                model.move(source, destination)
            model.truncate(source, 0)
        self._report(sequence, reason, token_ids, sources, error)

    def statistics(self) -> EngineStatistics:
        """A copy of the totals over the ended requests; may be taken by any thread."""
        with self._statistics_lock:
            return deepcopy(self._statistics)

    def abandon(self, reason: FinishReason, error: str | None = None) -> None:
        """End everything that runs; at close, what waits too."""
        for sequence in reversed(list(self.scheduler.running)):
            self.finish(sequence, reason, error=error)
        for sequence in self.scheduler.drop_waiting(everything=reason is FinishReason.CANCELLED):
            self._report(sequence, reason)

    def _report(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[TokenSource] = (),
        error: str | None = None,
    ) -> None:
        with self._statistics_lock:
            self._statistics.add(reason.value, sequence.statistics)
        sequence.emit(list(token_ids), list(sources), reason, error)


def _count(sequence: Sequence, block: Block, sources: list[TokenSource]) -> None:
    """Count the tokens of a block that were kept after the stop conditions, and nothing else."""
    counts = sequence.statistics
    counts.num_target_calls += 1
    counts.num_output_tokens += len(sources)
    counts.num_residual_tokens += sources.count(TokenSource.RESIDUAL)
    counts.num_bonus_tokens += sources.count(TokenSource.BONUS)
    counts.num_deferrals += sum(block.deferred[: len(sources)])
    if block.drafted:
        counts.verifier = block.verifier
        counts.record_step(drafted=block.drafted, accepted=sources.count(TokenSource.DRAFTER))


def _padded(logits: Tensor, rows: list[int]) -> Tensor:
    """Rows of ragged lengths as ``[B, longest, V]``; a short sequence's last row fills its tail and is not read."""
    if not rows:
        return logits.unsqueeze(0)
    longest = max(rows)
    if min(rows) == longest:
        return logits.view(len(rows), longest, -1)
    index: list[list[int]] = []
    start = 0
    for count in rows:
        index.append([start + min(k, count - 1) for k in range(longest)])
        start += count
    return logits[torch.tensor(index, device=logits.device)]
