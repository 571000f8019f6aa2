"""Rows: a sum that does not depend on its company, and rows over a part of the vocabulary."""

from __future__ import annotations

import torch

from spec_cascade.rules import Rows
from spec_cascade.rules.rows import row_sum


def test_a_rows_sum_is_the_same_bits_alone_and_among_others_whatever_the_threads() -> None:
    """Torch alone is not so: two threads add a single long row in two halves, several rows one by one."""
    rows = torch.randn(8, 151_936, generator=torch.Generator().manual_seed(0)).softmax(-1)
    together = row_sum(rows)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for i in range(8):
            assert row_sum(rows[i]) == together[i]
            assert row_sum(rows[None, i : i + 1])[0, 0] == together[i]
            assert torch.equal(row_sum(rows[i : i + 3]), together[i : i + 3])
    finally:
        torch.set_num_threads(threads)


def test_rows_of_a_part_of_the_vocabulary_widen_with_zeros() -> None:
    q, p = torch.tensor([[0.25, 0.75]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    rows = Rows(q, p, q, p, torch.tensor([3, 1]))
    assert rows.on_draft(p).tolist() == p[:, [3, 1]].tolist()
    assert rows.column(torch.tensor([1])).tolist() == [1]
    whole = rows.whole()
    assert whole.draft_probs.tolist() == [[0, 0.75, 0, 0.25]]
    assert whole.draft_gate is whole.draft_probs
    unread = Rows(q, p, q.new_empty(0), p, torch.tensor([3, 1])).whole()
    assert unread.draft_gate.shape == (0,)
    assert Rows(q[:0], p[:0], q[:0], p[:0], torch.tensor([3, 1])).whole().draft_gate.shape == (0, 4)
