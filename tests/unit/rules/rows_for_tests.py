"""Rows that try a rule: random, tied, with zeros, one-hot, equal, disjoint."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import torch
from hypothesis import strategies as st

from spec_cascade.rules import Rows

if TYPE_CHECKING:
    from torch import Tensor

# Every rule with parameters in and at the ends of its range; the composites and guards stand in COMPOSED.
SPECS = [
    "strict",
    "drafter_only",
    *(f"chow:alpha={a}" for a in (-0.5, 0, 0.45, 0.6, 1)),
    *(f"chow_log:alpha={a}" for a in (-1, 0, 0.6, 1.2, "inf")),
    *(f"diff:alpha={a}" for a in (-1, -0.1, 0, 0.125, 1)),
    *(f"diff_log:alpha={a}" for a in ("-inf", -0.2, 0.3, 2)),
    *(f"opt:alpha={a}" for a in ("-inf", -0.5, 0, 0.5, 1.01, "inf")),
    *(f"divergence:alpha={a},kind={k}" for a, k in product((-1, 0.05, 0.3), ("tv", "js", "kl"))),
    "divergence:alpha=inf,kind=kl",
    *(f"token_v1:alpha={a}" for a in (-1, -0.2, 0.3, 0.5, 1)),
    *(f"token_v2:alpha={a}" for a in (-0.1, 0, 0.31, 1)),
    *(f"token_v3:alpha={a}" for a in (-0.1, 0, 0.3, 0.8, 1)),
    *(f"top_k:k={k}" for k in (0, 1, 2, 9)),
    *(f"margin:alpha={a}" for a in (-0.1, 0, 0.6, 1)),
    *(f"mix:weight={w}" for w in (0, 0.3, 1)),
    *(f"lossy:alpha={a}" for a in (0, 0.2, 0.5, 0.9, 1)),
    *(f"mentored:budget={b}" for b in (0, 0.01, 0.2, "inf")),
]
LAWLESS = [
    *(f"cactus:delta={d}" for d in (0, 0.1, 1, 10)),
    "typical:epsilon=0.3,delta=0.09",
    "typical:epsilon=0.2,delta=1.5",
    "relaxed:top_n=1,delta=0",
    "relaxed:top_n=2,delta=0.6",
    *(f"ears:tolerance={t}" for t in (0, 0.3, 1)),
]
COMPOSED = [
    "all_of(chow:alpha=0.6, token_v2:alpha=0.31)",
    "all_of(diff:alpha=0.1, divergence:alpha=0.3,kind=js)",
    "all_of(token_v3:alpha=0.9, top_k:k=2)",
    "all_of(token_v1:alpha=0.4, any_of(chow:alpha=0.55, token_v3:alpha=0.4))",
    "any_of(chow:alpha=0.45, token_v3:alpha=0.3)",
    "any_of(opt:alpha=0.2, strict)",
    "all_of(opt:alpha=-inf, token_v3:alpha=0.8)",
    "target_support(drafter_only)",
    "target_support(token_v1:alpha=0.5)",
    "target_support(mix:weight=0.3)",
    "target_support(mentored:budget=inf)",
]


def rows_of(*rows: list[float]) -> Rows:
    """Rows from q, p, q~, p~; the last two default to the first two."""
    q, p, *gates = (torch.tensor(row, dtype=torch.float64) for row in rows)
    return Rows(q, p, *(gates or (q, p)))


def special_rows(vocab: int) -> Rows:
    """A batch ``[n, V]``: the corner cases, and a few random rows, with gates equal to the sampling rows or not."""
    generator = torch.Generator().manual_seed(vocab)

    def random() -> Tensor:
        return torch.rand(vocab, generator=generator, dtype=torch.float64).add(0.01).log().mul(2).softmax(-1)

    def hot(v: int) -> Tensor:
        return torch.eye(vocab, dtype=torch.float64)[v]

    even = torch.full((vocab,), 1 / vocab, dtype=torch.float64)
    half = torch.zeros(vocab, dtype=torch.float64)
    half[: max(1, vocab // 2)] = 1 / max(1, vocab // 2)
    other_half = torch.zeros(vocab, dtype=torch.float64)
    other_half[max(1, vocab // 2) :] = 1 / (vocab - max(1, vocab // 2))
    same = random()
    pairs = [
        *((random(), random()) for _ in range(4)),
        (same, same),
        (same, 0.96 * same + 0.04 * even),
        (even, even),
        (even, random()),
        (half, other_half),
        (half, even),
        (even, half),
        (hot(0), hot(0)),
        (hot(0), hot(1)),
        (hot(1), random()),
        (random(), hot(0)),
    ]
    several = [(q, p, *gates) for q, p in pairs for gates in ((q, p), (random(), random()))]
    return Rows(*(torch.stack(column) for column in zip(*several, strict=True)))


def each(rows: Rows) -> list[Rows]:
    """The positions of a batch."""
    n = rows.draft_probs.shape[0]
    return [Rows(rows.draft_probs[i], rows.target_probs[i], rows.draft_gate[i], rows.target_gate[i]) for i in range(n)]


@st.composite
def rows(draw: st.DrawFn, max_vocab: int = 5) -> Rows:
    """Rows of small whole weights: ties, zeros, one-hot, equal and disjoint rows come often."""
    vocab = draw(st.integers(2, max_vocab))

    def row() -> Tensor:
        weights = draw(st.lists(st.integers(0, 6), min_size=vocab, max_size=vocab).filter(any))
        weights = torch.tensor(weights, dtype=torch.float64)
        return weights / weights.sum()

    q, p = row(), row()
    if draw(st.booleans()):
        return Rows(q, p, q, p)
    return Rows(q, p, row(), row())
