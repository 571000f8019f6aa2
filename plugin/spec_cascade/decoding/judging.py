"""From both models' logits to what a round gives each sequence."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from itertools import accumulate, islice
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
    from collections.abc import Callable
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.models import Proposal
    from spec_cascade.decoding.sequence import Sequence

log = logging.getLogger(__name__)

NO_DISTRIBUTION = "the model's logits make no distribution"
"""What a client is told whose request ends for it."""


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


def judge_sound(
    scored: Scored, *, vocab_size: int, spoilt: Callable[[Sequence, LogitsError], None]
) -> list[tuple[Sequence, Block]]:
    """As `judge`, log-probs included, past rows that make no distribution.

    One of the target's ends its own request, and one of the drafter's costs a draft.

    Args:
        scored: See `judge`.
        vocab_size: See `judge`.
        spoilt: Told of each such row, and whose it is.

    Returns:
        What is left of the sequences, with their blocks.
    """
    while scored.sequences:
        try:
            blocks = judge(scored, vocab_size=vocab_size)
        except LogitsError as error:
            log.error("%s", error)
            spoilt(scored.sequences[error.sequence], error)
            is_draft = error.whose == "draft"
            scored = scored.leave_undrafted(error.sequence) if is_draft else scored.leave_out(error.sequence)
            continue
        _add_log_probs(scored, blocks, vocab_size=vocab_size)
        return list(zip(scored.sequences, blocks, strict=True))
    return []


def _plain(logits: Tensor, sampling: BatchSampling, numbers: Tensor, vocab_size: int) -> list[Block]:
    """One token each, drawn from the target's rows ``[B, V]``."""
    tokens, sound = sample(logits, sampling, numbers, vocab_size=vocab_size)
    drawn = to_host(torch.stack((tokens, sound.long()), -1)).tolist()
    for b, (_, is_sound) in enumerate(drawn):
        if not is_sound:
            raise LogitsError("target", b, 0, "NaN, +inf or nothing but -inf")
    return [Block([token]) for token, _ in drawn]


def shape(scored: Scored, *, vocab_size: int, drafted: Seq[Seq[int]] | None = None) -> None:
    """Apply the requests' penalties and bans to the target's rows, in place.

    Args:
        scored: Drafts and rows.
        vocab_size: Token ids that exist.
        drafted: Each sequence's draft, where the host knows it; None fetches them.
    """
    shaped = [(b, s, s.shaping) for b, s in enumerate(scored.sequences) if s.shaping is not None]
    if not shaped:
        return
    lengths = scored.proposal.lengths
    if drafted is None:
        drafted = to_host(scored.proposal.token_ids).tolist() if any(lengths) else [[]] * len(lengths)
    for b, sequence, shaping in shaped:
        rows = scored.logits[b, : lengths[b] + 1, :vocab_size]
        rows.copy_(shaping.apply_block(rows, sequence.output_ids, drafted[b][: lengths[b]]))


def _add_log_probs(scored: Scored, blocks: Seq[Block], *, vocab_size: int) -> None:
    """Fill in what the requests want to know of their tokens; fetched for all at once."""
    wanted: list[tuple[Block, Tensor]] = []
    for b, (sequence, block) in enumerate(zip(scored.sequences, blocks, strict=True)):
        if sequence.request.sampling.log_probs:
            rows = scored.logits[b, : len(block.token_ids), :vocab_size].float().log_softmax(-1)
            tokens = to_device(block.token_ids, torch.long, rows.device).unsqueeze(-1)
            wanted.append((block, rows.gather(-1, tokens).squeeze(-1)))
    if not wanted:
        return
    values = iter(to_host(torch.cat([found for _, found in wanted])).tolist())
    for block, found in wanted:
        block.log_probs.extend(islice(values, len(found)))


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


def padded(logits: Tensor, rows: Seq[int], firsts: Seq[int] | None = None) -> Tensor:
    """Rows of ragged lengths as ``[B, longest, V]``; a short sequence's last row fills its tail and is not read.

    Args:
        logits: ``[R, V]``.
        rows: How many each sequence has.
        firsts: Where they begin; None is one behind the other, from the first on.

    Returns:
        A view, where all have as many and they lie so.
    """
    if not rows:
        return logits.unsqueeze(0)
    if firsts is None:
        firsts = [0, *accumulate(rows[:-1])]
    longest, first = max(rows), firsts[0]
    end = first + len(rows) * longest
    if min(rows) == longest and list(firsts) == list(range(first, end, longest)):
        return logits[first:end].view(len(rows), longest, -1)
    index = [[start + min(k, n - 1) for k in range(longest)] for start, n in zip(firsts, rows, strict=True)]
    return logits[to_device(index, torch.long, logits.device)]
