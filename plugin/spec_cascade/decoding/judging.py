"""From both models' logits to what a round gives each sequence."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.request import TokenSource
from spec_cascade.verify import (
    BatchSampling,
    LogitsError,
    Purpose,
    round_uniforms,
    sample,
    to_device,
    to_host,
    uniforms,
    verify,
)

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.models import Proposal
    from spec_cascade.decoding.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Block:
    """What one round gave one sequence, before any stop condition.

    Attributes:
        token_ids: Accepted drafts and the token that follows them.
        drafted: Tokens that had been drafted.
        deferred: Per drafted token, whether the rule deferred there.
        verifier: Which verifier judged the drafts; empty where there were none.
        log_probs: Of each token, if the request wants them: see `RoundOutput.log_probs`.
    """

    token_ids: list[int]
    drafted: int = 0
    deferred: list[bool] = field(default_factory=list)
    verifier: str = ""
    log_probs: list[float] = field(default_factory=list)

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


@dataclass(frozen=True, slots=True)
class Scored:
    """What the target's forward gave.

    Attributes:
        sequences: Those that get a token this round, B of them.
        proposal: Their drafts.
        logits: The target's rows for them, ``[B, K+1, V]``.
        num_tokens: Tokens in the forward, prompts included.
    """

    sequences: list[Sequence]
    proposal: Proposal
    logits: Tensor
    num_tokens: int

    @property
    def num_rows(self) -> int:
        """Rows that are judged or drawn from."""
        return len(self.sequences) + sum(self.proposal.lengths)

    @property
    def is_decode_step(self) -> bool:
        """Whether no prompt was in process, neither the target's nor the drafter's."""
        return self.num_rows == self.num_tokens and self.proposal.caught_up

    def leave_out(self, b: int) -> Scored:
        """Without one of the sequences."""
        others = [i for i in range(len(self.sequences)) if i != b]
        kept = [self.sequences[i] for i in others]
        return Scored(kept, self.proposal.take(others), self.logits[others], self.num_tokens)

    def leave_undrafted(self, b: int) -> Scored:
        """Without one sequence's draft."""
        return replace(self, proposal=self.proposal.without(b))


def judge(scored: Scored, *, vocab_size: int) -> list[Block]:
    """What stands of each sequence's draft, and the token that follows.

    Args:
        scored: Drafts, and the target's rows after `shape`.
        vocab_size: Token ids that exist; wider logits are padding.

    Raises:
        LogitsError: A row makes no distribution; the error says whose and which.
    """
    sequences, proposal, logits = scored.sequences, scored.proposal, scored.logits
    sampling = BatchSampling.of([s.request.sampling for s in sequences], logits.device)
    seeds = to_device([s.seed for s in sequences], torch.long, logits.device)
    positions = to_device([s.num_emitted for s in sequences], torch.long, logits.device)
    if not any(proposal.lengths):
        # Off is off: no drafts, so no verifier; the target's row is sampled as plain decoding does it.
        return _plain(logits[:, 0], sampling, uniforms(seeds, positions, Purpose.DRAW), vocab_size)
    argmax = torch.ones(len(sequences), dtype=torch.bool, device=logits.device) if proposal.argmax else None
    verdict = verify(
        proposal.token_ids,
        proposal.logits,
        logits,
        [s.rule for s in sequences],
        sampling,
        round_uniforms(seeds, positions, proposal.token_ids.shape[1]),
        draft_lengths=to_device(proposal.lengths, torch.long, logits.device),
        places=[s.place for s in sequences],
        vocab_size=vocab_size,
        argmax_drafts=argmax,
        draft_index=proposal.index,
    )
    # The verdict is on the host, whatever device judged.
    parts = (verdict.draft_tokens, verdict.accepted, verdict.next_token, verdict.deferred)
    ran = str(verdict.ran)
    return [
        Block([*draft[:accepted], token], drafted, deferred[:drafted], ran if drafted else "")
        for drafted, draft, accepted, token, deferred in zip(
            proposal.lengths, *(part.tolist() for part in parts), strict=True
        )
    ]


def _plain(logits: Tensor, sampling: BatchSampling, numbers: Tensor, vocab_size: int) -> list[Block]:
    """One token each, drawn from the target's rows ``[B, V]``."""
    tokens, sound = sample(logits, sampling, numbers, vocab_size=vocab_size)
    drawn = to_host(torch.stack((tokens, sound.long()), -1)).tolist()
    for b, (_, is_sound) in enumerate(drawn):
        if not is_sound:
            raise LogitsError("target", b, 0, "NaN, +inf or nothing but -inf")
    return [Block([token]) for token, _ in drawn]


def shape(scored: Scored, *, vocab_size: int) -> None:
    """Apply the requests' penalties and bans to the target's rows, in place."""
    shaped = [(b, s, s.shaping) for b, s in enumerate(scored.sequences) if s.shaping is not None]
    for b, sequence, shaping in shaped:
        length = scored.proposal.lengths[b]
        drafted = to_host(scored.proposal.token_ids[b, :length]).tolist()
        rows = scored.logits[b, : length + 1, :vocab_size]
        rows.copy_(shaping.apply_block(rows, sequence.output_ids, drafted))


def add_log_probs(scored: Scored, blocks: Seq[Block], *, vocab_size: int) -> None:
    """Fill in what the requests want to know of their tokens."""
    for b, (sequence, block) in enumerate(zip(scored.sequences, blocks, strict=True)):
        if sequence.request.sampling.log_probs:
            rows = scored.logits[b, : len(block.token_ids), :vocab_size].float().log_softmax(-1)
            tokens = to_device(block.token_ids, torch.long, rows.device).unsqueeze(-1)
            block.log_probs.extend(to_host(rows.gather(-1, tokens).squeeze(-1)).tolist())


def count(sequence: Sequence, block: Block, sources: list[TokenSource]) -> None:
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


def padded(logits: Tensor, rows: list[int]) -> Tensor:
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
    return logits[to_device(index, torch.long, logits.device)]
