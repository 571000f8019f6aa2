"""The decoding loop: schedule, draft, score, verify, commit, emit.

One call of `DecodingLoop.step` is a round for every live request. A request's tokens are its prompt and output; the
target's cache holds all of them but the newest, which the next round feeds together with the draft. The drafter's
cache may lack one token more: the last token of a block that was accepted whole is fed with the next round's first
draft step, where it costs nothing, instead of in a forward of its own.
"""

from __future__ import annotations

import logging
from collections import deque
from threading import Lock
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.judging import NO_DISTRIBUTION, Scored, count, judge_sound, padded, shape
from spec_cascade.decoding.models import Feed, Proposal
from spec_cascade.decoding.request import FinishReason, TokenSource
from spec_cascade.decoding.statistics import EngineStatistics
from spec_cascade.decoding.stopwatch import Stopwatch

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.judging import Block
    from spec_cascade.decoding.models import Drafter, LanguageModel
    from spec_cascade.decoding.policy import DraftPolicy
    from spec_cascade.decoding.scheduler import Scheduler
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.decoding.stop import StopConditions
    from spec_cascade.verify import LogitsError

log = logging.getLogger(__name__)

REMEMBERED_ROUNDS = 1024
"""Judged rounds whose time is kept for whoever asks: many more than pass between two looks."""


class DecodingLoop:
    """Runs the rounds of all live requests on one target and one drafter.

    Args:
        target: Scores and decides.
        drafter: Proposes; None decodes with the target alone.
        scheduler: Holds the sequences.
        stop: Where outputs end.
        policy: How many tokens to draft.
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
        policy: DraftPolicy,
        *,
        prefill_chunk: int,
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.target = target
        self.drafter = drafter
        self.scheduler = scheduler
        self.policy = policy
        self._stop = stop
        self._prefill_chunk = prefill_chunk
        self._vocab_size = vocab_size
        self._device = device
        self._statistics = EngineStatistics()
        self._statistics_lock = Lock()
        self._verify_seconds: deque[float] = deque(maxlen=REMEMBERED_ROUNDS)
        self._commit_seconds = 0.0

    @torch.inference_mode()
    def step(self) -> None:
        """One round for every live request."""
        watch = Stopwatch(self._device)
        batch = self._schedule()
        if not batch:
            return
        watch.lap("host")
        proposal = self._draft(batch)
        watch.lap("draft")
        scored = self._score(batch, proposal)
        watch.lap("score")
        judged = judge_sound(scored, vocab_size=self._vocab_size, spoilt=self._spoilt)
        watch.lap("verify")
        self._observe(scored, judged, watch)
        for sequence, block in judged:
            self._commit(sequence, block)
        self._commit_seconds = watch.lap("host")

    def _schedule(self) -> list[Sequence]:
        """The live sequences, in the order of their slots."""
        for sequence in self.scheduler.drop_waiting():
            self._report(sequence, sequence.end_reason or FinishReason.CANCELLED)
        for sequence, reason in [(s, s.end_reason) for s in self.scheduler.running]:
            if reason is not None:
                self.finish(sequence, reason)
        self.scheduler.admit()
        return list(self.scheduler.running)

    def _draft(self, batch: list[Sequence]) -> Proposal:
        chosen = [0] * len(batch) if self.drafter is None else self.policy.choose(batch)
        for sequence, length in zip(batch, chosen, strict=True):
            sequence.speculates = length > 0
        if self.drafter is None or not any(chosen):
            return Proposal.empty(len(batch), self._device)
        try:
            return self.drafter.propose(batch, [self._fitting(s, k) for s, k in zip(batch, chosen, strict=True)])
        except Exception:  # whatever the drafter raises (out of memory, say) costs its drafts, and no request
            log.exception("the drafter failed; decoding goes on with the target alone for a while")
            self._drafter_failed()
            return Proposal.empty(len(batch), self._device)

    def _drafter_failed(self) -> None:
        """Start the drafter's caches anew, and let it rest."""
        with self._statistics_lock:
            self._statistics.num_drafter_failures += 1
        self.policy.pause()
        for slot in range(len(self.scheduler.running)):
            if self.drafter is not None:
                self.drafter.truncate(slot, 0)

    def _fitting(self, sequence: Sequence, length: int) -> int:
        """K of this round: none while the prompt is in process, less near the end of the output."""
        if self._pending(sequence) > 1:
            return 0
        room = self._stop.room(len(sequence.request.prompt_ids), sequence.num_emitted, sequence.request.sampling)
        return min(length, room - 1)

    def _pending(self, sequence: Sequence) -> int:
        return len(sequence.token_ids) - self.target.length(sequence.slot)

    def _score(self, batch: list[Sequence], proposal: Proposal) -> Scored:
        """Feed every sequence's pending tokens and draft to the target in one forward."""
        feeds: list[Feed] = []
        sequences: list[Sequence] = []
        for b, (sequence, length) in enumerate(zip(batch, proposal.lengths, strict=True)):
            pending = sequence.token_ids[self.target.length(sequence.slot) :]
            if len(pending) > self._prefill_chunk:
                feeds.append(Feed(sequence.slot, pending[: self._prefill_chunk], rows=0))
                continue
            drafted = proposal.token_ids[b, :length] if length else None
            feeds.append(Feed(sequence.slot, pending, rows=length + 1, drafted=drafted))
            sequences.append(sequence)
        logits = padded(self.target.forward(feeds), [feed.rows for feed in feeds if feed.rows])
        num_tokens = sum(len(feed.token_ids) for feed in feeds) + sum(proposal.lengths)
        scored = Scored(sequences, proposal.take([s.slot for s in sequences]), logits, num_tokens)
        shape(scored, vocab_size=self._vocab_size)
        return scored

    def _spoilt(self, sequence: Sequence, error: LogitsError) -> None:
        if error.whose == "target":
            self.finish(sequence, FinishReason.ERROR, error=NO_DISTRIBUTION)
        elif not self.policy.paused:
            self._drafter_failed()

    def _observe(self, scored: Scored, judged: list[tuple[Sequence, Block]], watch: Stopwatch) -> None:
        """Count the round and its seconds, before a last chunk takes a request's statistics away."""
        # The time to commit is known when the round is over: it counts with the next.
        watch.timings.host += self._commit_seconds
        for sequence in self.scheduler.running:
            # Not of the round's whole batch: those that `_spoilt` ended have sent their statistics.
            sequence.statistics.seconds.add(watch.timings)
        with self._statistics_lock:
            self._statistics.num_rounds += 1
            self._statistics.seconds.add(watch.timings)
            if any(block.drafted for _, block in judged):
                self._statistics.num_judged_rounds += 1
                self._verify_seconds.append(watch.timings.verify)
        if scored.is_decode_step and scored.sequences:
            # Prompts would tell the steps too dear, and a row of a draft as well: hundreds of tokens keep a processor
            # busy, the few of a block ride on the reading of the weights.
            self.policy.costs.add(scored.proposal.lengths, watch.timings)

    def _commit(self, sequence: Sequence, block: Block) -> None:
        """Append what stands, roll both caches back to it, count it, and send it."""
        prompt_length = len(sequence.request.prompt_ids)
        kept, reason = self._stop.cut(prompt_length, sequence.output_ids, block.token_ids, sequence.request.sampling)
        sequence.token_ids.extend(kept)
        self.target.truncate(sequence.slot, len(sequence.token_ids) - 1)
        if self.drafter is not None:
            self.drafter.truncate(sequence.slot, len(sequence.token_ids) - 1)
        sources, log_probs = block.sources[: len(kept)], block.log_probs[: len(kept)]
        count(sequence, block, sources)
        if block.drafted:
            self.policy.observe(sequence, block.drafted, block.accepted)
        if reason is None:
            sequence.emit(kept, sources, None, log_probs=log_probs)
        else:
            self.finish(sequence, reason, kept, sources, log_probs)

    def finish(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[TokenSource] = (),
        log_probs: Seq[float] = (),
        error: str | None = None,
    ) -> None:
        """End a live request with what it has sent, and these last tokens."""
        try:
            self._release(sequence)
        finally:
            # Nobody else would tell its client if the caches failed here: it runs no more.
            self._report(sequence, reason, token_ids, sources, log_probs, error)

    def _release(self, sequence: Sequence) -> None:
        """Free a live sequence's slot in both caches."""
        source, destination = self.scheduler.release(sequence)
        for model in (self.target, self.drafter):
            if model is None:
                continue
            if source != destination:
                model.move(source, destination)
            model.truncate(source, 0)

    def _report(
        self,
        sequence: Sequence,
        reason: FinishReason,
        token_ids: Seq[int] = (),
        sources: Seq[TokenSource] = (),
        log_probs: Seq[float] = (),
        error: str | None = None,
    ) -> None:
        """Count an ended request and send its last chunk."""
        self.policy.forget(sequence)
        with self._statistics_lock:
            self._statistics.add(reason.value, sequence.statistics)
        sequence.emit(list(token_ids), list(sources), reason, log_probs=list(log_probs), error=error)

    def abandon(self, reason: FinishReason, error: str | None = None) -> None:
        """End everything that runs; at close, what waits too."""
        for sequence in reversed(list(self.scheduler.running)):
            self._finish_anyhow(sequence, reason, error)
        for sequence in self.scheduler.drop_waiting(everything=reason is FinishReason.CANCELLED):
            self._report(sequence, sequence.end_reason or reason)

    def _finish_anyhow(self, sequence: Sequence, reason: FinishReason, error: str | None) -> None:
        try:
            self.finish(sequence, reason, error=error)
        except Exception:  # a device that has failed for good refuses this too, and the others must hear of it
            log.exception("a slot could not be emptied")

    def statistics(self) -> EngineStatistics:
        """A copy of the totals over the ended requests; may be taken by any thread."""
        with self._statistics_lock:
            copy = self._statistics.copy()
            copy.verify_seconds = tuple(self._verify_seconds)
        copy.cost_ratio = self.policy.costs.ratio
        return copy

    def reset_statistics(self) -> None:
        """Begin to count anew: what ran so far was no client's."""
        with self._statistics_lock:
            self._statistics = EngineStatistics()
            self._verify_seconds.clear()
