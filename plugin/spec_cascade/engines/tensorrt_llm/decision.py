"""A round's decisions: all live requests in one call of the verifier."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from spec_cascade.decoding.judging import NO_DISTRIBUTION, Scored, judge_sound, padded, shape
from spec_cascade.decoding.models import Proposal
from spec_cascade.verify import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.judging import Block
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.engines.tensorrt_llm.drafts import Drawn
    from spec_cascade.engines.tensorrt_llm.followed import Followed
    from spec_cascade.engines.tensorrt_llm.rows import RowSpan
    from spec_cascade.verify import LogitsError


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
    rows: RowSpan
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
        broken: Or why there are none, in a sentence for who sent the request.
    """

    blocks: dict[int, Block] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)


@dataclass(slots=True)
class Decisions:
    """What was decided in one call of `sample_async`, by ``py_request_id``; a batch is the target's or the drafter's.

    Attributes:
        decided: Of the target's requests that are ours.
        drawn: For the drafter's requests that belong to those, until the step is over.
        drafted: And what that were, from then on.
    """

    decided: Decided = field(default_factory=Decided)
    drawn: Drawn | None = None
    drafted: dict[int, int] = field(default_factory=dict)

    def block(self, request: Any) -> Block | None:
        """What a request of the target's gets; None where TensorRT-LLM decides."""
        return None if request.py_is_draft else self.decided.blocks.get(request.py_request_id)

    def drafted_token(self, request: Any) -> int | None:
        """The next token of a request of the drafter's; None where TensorRT-LLM draws it."""
        return self.drafted.get(request.py_request_id) if request.py_is_draft else None


def decide(turns: Seq[Turn], logits: Tensor, *, vocab_size: int | None) -> Decided:
    """Judge the drafts of a round, and draw the tokens that follow.

    Args:
        turns: The requests, in the order of their rows.
        logits: The target's raw rows, ``[R, V]``. Set to 0 are those of a request of which no distribution can be made;
            those of one with penalties or bans may be changed.
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
        padded(logits, [len(turn.draft.token_ids) + 1 for turn in turns], [turn.rows.first for turn in turns]),
        sum(turn.rows.count for turn in turns),
    )
    shape(scored, vocab_size=vocab, drafted=[turn.draft.token_ids for turn in turns])
    turn_of = {id(turn.followed.sequence): turn for turn in turns}

    def spoilt(sequence: Sequence, error: LogitsError) -> None:
        if error.whose == "target":
            turn = turn_of[id(sequence)]
            decided.broken[turn.followed.request_id] = NO_DISTRIBUTION
            # TensorRT-LLM samples from these rows too, and fails on them for everybody.
            logits[turn.rows.first : turn.rows.first + turn.rows.count] = 0

    for sequence, block in judge_sound(scored, vocab_size=vocab, spoilt=spoilt):
        decided.blocks[turn_of[id(sequence)].followed.request_id] = block
    return decided


def _proposal(turns: Seq[Turn], device: torch.device, vocab: int) -> Proposal:
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


def _draft_rows(drafts: Seq[Draft], longest: int) -> Tensor:
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
