"""Proposals of some of the sequences."""

from __future__ import annotations

import torch

from spec_cascade.decoding.models import Proposal

PROPOSAL = Proposal(
    torch.tensor([[5, 7], [7, 0], [9, 5]]),
    torch.arange(18.0).view(3, 2, 3),
    [2, 1, 2],
    argmax=True,
    caught_up=False,
    index=torch.tensor([5, 7, 9]),
)


def test_some_of_a_proposal_are_its_rows_and_all_else_stays() -> None:
    some = PROPOSAL.take([0, 2])
    assert some.token_ids.tolist() == [[5, 7], [9, 5]]
    assert some.lengths == [2, 2]
    assert some.logits is not None
    assert PROPOSAL.logits is not None
    assert torch.equal(some.logits, PROPOSAL.logits[[0, 2]])
    assert (some.argmax, some.caught_up, some.index) == (True, False, PROPOSAL.index)


def test_a_proposal_without_one_draft_keeps_the_rest() -> None:
    rest = PROPOSAL.without(1)
    assert rest.lengths == [2, 0, 2]
    for part in ("token_ids", "logits", "argmax", "caught_up", "index"):
        assert getattr(rest, part) is getattr(PROPOSAL, part)
