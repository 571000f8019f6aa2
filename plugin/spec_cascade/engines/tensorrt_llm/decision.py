"""A round's decisions: all live requests in one call of the verifier."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from spec_cascade.decoding.judging import Scored, add_log_probs, judge
from spec_cascade.decoding.models import Proposal
from spec_cascade.verify import LogitsError, to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.decoding.judging import Block
    from spec_cascade.engines.tensorrt_llm.followed import Followed
    from spec_cascade.engines.tensorrt_llm.rows import Rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Draft:
    """What was drafted for one request, in so far as it is judged.

    Attributes:
        token_ids: n of them.
        logits: The drafter's rows, raw, ``[n or more, Vd]``; None where n is 0.
        argmax: The tokens are the argmax of their rows whatever the temperature.
        index: The token id of each column of ``logits``, ``[Vd]``; None where they are the target's.
    """

    token_ids: tuple[int, ...]
    logits: Tensor | None
    argmax: bool
    index: Tensor | None = None


NOTHING = Draft((), None, argmax=False)


@dataclass(frozen=True, slots=True)
class Turn:
    """A request in a round: whose, which rows of the target's, which draft."""

    followed: Followed
    rows: Rows
    draft: Draft

    def within(self, vocab: int) -> Turn:
        """The same, its draft up to the first token that does not exist: an argmax may lie in a row's padding."""
        tokens = self.draft.token_ids
        unknown = next((n for n, token in enumerate(tokens) if token >= vocab), None)
        if unknown is None:
            return self
        return replace(self, draft=replace(self.draft, token_ids=tokens[:unknown]) if unknown else NOTHING)


@dataclass(frozen=True, slots=True)
class Decided:
    """What a round gives its requests, by their ``request_id``.

    Attributes:
        blocks: Tokens.
        broken: Or why there are none: the target gave rows that make no distribution.
    """

    blocks: dict[int, Block] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)


def decide(turns: Sequence[Turn], logits: Tensor, *, vocab_size: int | None) -> Decided:
    """Judge the drafts of a round, and draw the tokens that follow.

    Args:
        turns: The requests, in the order of their rows.
        logits: The target's raw rows, ``[R, V]``. Changed in place are the rows of requests with penalties or bans, and
            those of which no distribution can be made.
        vocab_size: Token ids that exist; None is all columns.
    """
    decided = Decided()
    if not turns:
        return decided
    # The same in every round: a request must not notice whether anybody is drafted for.
    vocab = min(logits.shape[-1], vocab_size or logits.shape[-1])
    turns = [turn.within(vocab) for turn in turns]
    scored = Scored(
        [turn.followed.sequence for turn in turns],
        _proposal(turns, logits.device, vocab),
        _target_rows(turns, logits),
        sum(turn.rows.count for turn in turns),
    )
    _shape(scored, turns, vocab)
    turn_of = {id(turn.followed.sequence): turn for turn in turns}
    while scored.sequences:
        try:
            blocks = judge(scored, vocab_size=vocab)
        except LogitsError as error:
            log.error("%s", error)
            if error.whose == "draft":
                scored = scored.leave_undrafted(error.sequence)
                continue
            turn = turn_of[id(scored.sequences[error.sequence])]
            decided.broken[turn.followed.request_id] = str(error)
            scored = scored.leave_out(error.sequence)
            # TensorRT-LLM samples from these rows too, and fails on them for everybody.
            logits[turn.rows.first : turn.rows.first + turn.rows.count] = 0
            continue
        add_log_probs(scored, blocks, vocab_size=vocab)
        for sequence, block in zip(scored.sequences, blocks, strict=True):
            decided.blocks[turn_of[id(sequence)].followed.request_id] = block
        break
    return decided


def _shape(scored: Scored, turns: Sequence[Turn], vocab: int) -> None:
    """As `judging.shape` does, of drafts that the host knows: nothing is fetched."""
    for b, turn in enumerate(turns):
        sequence, drafted = turn.followed.sequence, turn.draft.token_ids
        if sequence.shaping is not None:
            rows = scored.logits[b, : len(drafted) + 1, :vocab]
            rows.copy_(sequence.shaping.apply_block(rows, sequence.output_ids, drafted))


def _target_rows(turns: Sequence[Turn], logits: Tensor) -> Tensor:
    """``[B, K+1, V]``, K being the longest draft that is judged; a view where the rows lie so."""
    counts = [len(turn.draft.token_ids) + 1 for turn in turns]
    firsts, longest = [turn.rows.first for turn in turns], max(counts)
    end = firsts[0] + len(turns) * longest
    if min(counts) == longest and firsts == list(range(firsts[0], end, longest)):
        return logits[firsts[0] : end].view(len(turns), longest, -1)
    # The last row of a short block fills its tail, and is not read there.
    index = [[first + min(j, n - 1) for j in range(longest)] for first, n in zip(firsts, counts, strict=True)]
    return logits[to_device(index, torch.long, logits.device)]


def _proposal(turns: Sequence[Turn], device: torch.device, vocab: int) -> Proposal:
    drafts = [turn.draft for turn in turns]
    lengths = [len(draft.token_ids) for draft in drafts]
    longest = max(lengths)
    if longest == 0:
        return Proposal.empty(len(turns), device)
    tokens = [[*draft.token_ids, *[0] * (longest - len(draft.token_ids))] for draft in drafts]
    first = next(draft for draft in drafts if draft.logits is not None)
    rows, index = _draft_rows(drafts, longest), first.index
    if index is None and rows.shape[-1] < vocab:
        # What the drafter has no column for, it never proposes; the target may say it all the same.
        index = torch.arange(rows.shape[-1], device=device)
    return Proposal(to_device(tokens, torch.long, device), rows, lengths, argmax=first.argmax, index=index)


def _draft_rows(drafts: Sequence[Draft], longest: int) -> Tensor:
    """``[B, K, Vd]``, zeros where nothing was drafted."""
    given = [draft.logits for draft in drafts if draft.logits is not None]
    blank: Any = None
    rows = []
    for draft in drafts:
        found = draft.logits
        if found is not None and len(found) >= longest:
            rows.append(found[:longest])
            continue
        if blank is None:
            blank = given[0].new_zeros(longest, given[0].shape[-1])
        rows.append(blank if found is None else torch.cat((found, blank[: longest - len(found)])))
    return torch.stack(rows)
