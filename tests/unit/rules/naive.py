# ruff: noqa: ARG005 - every law takes the four rows
"""The rules once more, transcribed from the papers in plain Python numbers: no tensors, no closed forms.

Each function takes the rows q, p, q~, p~ as lists and answers with the law; a rule without a law is given by the
probability of acceptance of each token and the row that replaces a rejected one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Row = list[float]
Law = Callable[[Row, Row, Row, Row], Row]
Lawless = Callable[[Row, Row, Row, Row], tuple[Row, list[Row]]]


def total_variation(p: Row, q: Row) -> float:
    return sum(max(0.0, a - b) for a, b in zip(p, q, strict=True))


def entropy(row: Row) -> float:
    return -sum(a * math.log(a) for a in row if a > 0)


def kullback_leibler(p: Row, q: Row) -> float:
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return math.inf
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def jensen_shannon(p: Row, q: Row) -> float:
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kullback_leibler(p, m) + kullback_leibler(q, m)) / 2


def row_rule(defers: Callable[[Row, Row, Row, Row], bool]) -> Law:
    """Equation 6: the target's row where the rule defers, else the drafter's."""
    return lambda q, p, qg, pg: p if defers(q, p, qg, pg) else q


def token_rule(defers: Callable[[int, Row, Row], bool]) -> Law:
    """Equation 11: ``q(v) (1 - r(v)) + p(v) sum r(v') q(v')``."""

    def law(q: Row, p: Row, qg: Row, pg: Row) -> Row:
        r = [float(defers(v, qg, pg)) for v in range(len(q))]
        eta = sum(r[v] * q[v] for v in range(len(q)))
        return [q[v] * (1 - r[v]) + p[v] * eta for v in range(len(q))]

    return law


def chow(alpha: float) -> Law:
    return row_rule(lambda q, p, qg, pg: max(qg) < 1 - alpha)


def chow_log(alpha: float) -> Law:
    return row_rule(lambda q, p, qg, pg: entropy(qg) > alpha)


def diff(alpha: float) -> Law:
    return row_rule(lambda q, p, qg, pg: max(qg) < max(pg) - alpha)


def diff_log(alpha: float) -> Law:
    return row_rule(lambda q, p, qg, pg: entropy(pg) < entropy(qg) - alpha)


def opt(alpha: float) -> Law:
    def defers(q: Row, p: Row, qg: Row, pg: Row) -> bool:
        distance = total_variation(p, q)
        return max(qg) < max(pg) - (alpha * distance if distance > 0 else 0.0)

    return row_rule(defers)


def divergence(alpha: float, kind: str = "tv") -> Law:
    distance = {"tv": total_variation, "js": jensen_shannon, "kl": kullback_leibler}[kind]
    return row_rule(lambda q, p, qg, pg: distance(p, q) > alpha)


def token_v1(alpha: float) -> Law:
    return token_rule(lambda v, qg, pg: qg[v] < max(pg) - alpha)


def token_v2(alpha: float) -> Law:
    return token_rule(lambda v, qg, pg: pg[v] < max(pg) - alpha)


def token_v3(alpha: float) -> Law:
    return token_rule(lambda v, qg, pg: pg[v] < (1 - alpha) * max(pg))


def top_k(k: int) -> Law:
    return token_rule(lambda v, qg, pg: k == 0 or sum(other > pg[v] for other in pg) >= k)


def margin(alpha: float) -> Law:
    return token_rule(lambda v, qg, pg: pg[v] < (1 - alpha) * max(pg) or sum(other > pg[v] for other in pg) >= 2)


def mix(weight: float) -> Law:
    return lambda q, p, qg, pg: [weight * a + (1 - weight) * b for a, b in zip(p, q, strict=True)]


def lossy(alpha: float) -> Law:
    """The table's row, with beta found by bisection."""

    def law(q: Row, p: Row, qg: Row, pg: Row) -> Row:
        if alpha == 1:
            return q
        low = [min(b, a / (1 - alpha)) for a, b in zip(p, q, strict=True)]

        def row(inverse_beta: float) -> Row:
            return [max(least, a * inverse_beta) for least, a in zip(low, p, strict=True)]

        below, above = 0.0, 1.0
        for _ in range(56):
            middle = (below + above) / 2
            below, above = (middle, above) if sum(row(middle)) <= 1 else (below, middle)
        return row(below)

    return law


def mentored(budget: float) -> Law:
    """The lossy law of the largest alpha that holds the budget."""

    def law(q: Row, p: Row, qg: Row, pg: Row) -> Row:
        if budget == 0:
            return p
        if kullback_leibler(p, q) <= budget:
            return q
        below, above = 0.0, 1.0
        for _ in range(50):
            middle = (below + above) / 2
            holds = kullback_leibler(p, lossy(middle)(q, p, qg, pg)) <= budget
            below, above = (middle, above) if holds else (below, middle)
        return lossy(below)(q, p, qg, pg)

    return law


def strict() -> Law:
    return lambda q, p, qg, pg: p


def drafter_only() -> Law:
    return lambda q, p, qg, pg: q


def cactus(delta: float) -> Lawless:
    def rule(q: Row, p: Row, qg: Row, pg: Row) -> tuple[Row, list[Row]]:
        h = [min(1.0, a + math.sqrt(2 * delta * a * (1 - a))) for a in p]
        replacements = []
        for x in range(len(q)):
            rest = (1 - h[x]) / (1 - p[x]) if p[x] < 1 else 0.0
            replacements.append([max(0.0, (h[x] if v == x else p[v] * rest) - q[v]) for v in range(len(q))])
        return [min(1.0, h[x] / q[x]) if q[x] > 0 else 0.0 for x in range(len(q))], replacements

    return rule


def typical(epsilon: float, delta: float) -> Lawless:
    def rule(q: Row, p: Row, qg: Row, pg: Row) -> tuple[Row, list[Row]]:
        least = min(epsilon, delta * math.exp(-entropy(p)))
        return [float(a > least) for a in p], [p for _ in q]

    return rule


def relaxed(top_n: int, delta: float) -> Lawless:
    def rule(q: Row, p: Row, qg: Row, pg: Row) -> tuple[Row, list[Row]]:
        accepts = [sum(other > a for other in pg) < top_n and a >= max(pg) - delta for a in pg]
        return [float(a) for a in accepts], [p for _ in q]

    return rule


def ears(tolerance: float) -> Lawless:
    def rule(q: Row, p: Row, qg: Row, pg: Row) -> tuple[Row, list[Row]]:
        bonus = tolerance * (1 - max(p))
        accepts = [min(1.0, a / b + bonus) if b > 0 else 0.0 for a, b in zip(p, q, strict=True)]
        return accepts, [[max(0.0, a - b) for a, b in zip(p, q, strict=True)] for _ in q]

    return rule


def emission(accepts: Row, replacements: list[Row], q: Row, p: Row) -> Row:
    """What a rule without a law emits."""
    out = [0.0] * len(q)
    for x, drafted in enumerate(q):
        total = sum(replacements[x])
        replacement = [w / total for w in replacements[x]] if total > 0 else p
        for v in range(len(q)):
            out[v] += drafted * (accepts[x] * (v == x) + (1 - accepts[x]) * replacement[v])
    return out
