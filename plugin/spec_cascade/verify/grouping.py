"""Which rule judges which row: rules differ within a batch, and some change along a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.rules.base import NOWHERE, Place
from spec_cascade.rules.guards import STRICT
from spec_cascade.verify.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule


def rule_at(rule: DeferralRule, place: Place) -> DeferralRule:
    """The rule that judges a row: at its place, and `Strict` for whatever has the target's law there."""
    rule = rule.at(place)
    return rule if rule.lossy else STRICT


def rules_of_rows(
    rules: Sequence[DeferralRule],
    places: Sequence[Place] | None,
    draft_tokens: Tensor,
    lengths: Tensor,
) -> tuple[list[DeferralRule], Tensor]:
    """The distinct rules, and for each drafted row ``[B, K]`` the index of its rule.

    A rule that looks at nothing is resolved once for its sequence; only the others are asked at each row. Rows beyond
    a sequence's length have the index of any rule.
    """
    batch, length = draft_tokens.shape
    distinct: dict[DeferralRule, int] = {}

    def number(rule: DeferralRule, place: Place) -> int:
        return distinct.setdefault(rule_at(rule, place), len(distinct))

    if all(rule.looks_at == "nothing" for rule in rules):
        which = to_device([[number(rule, NOWHERE)] for rule in rules], torch.long, draft_tokens.device)
        return list(distinct), which.expand(batch, length)
    blocks, block_lengths = draft_tokens.tolist(), lengths.tolist()
    numbers = []
    for b, rule in enumerate(rules):
        if rule.looks_at == "nothing" or block_lengths[b] == 0:
            numbers.append([number(rule, NOWHERE)] * length)
            continue
        start = places[b] if places is not None else NOWHERE
        here = [number(rule, place) for place in _places(rule, start, blocks[b][: block_lengths[b]])]
        numbers.append(here + here[-1:] * (length - len(here)))
    return list(distinct), to_device(numbers, torch.long, draft_tokens.device)


def _places(rule: DeferralRule, start: Place, block: list[int]) -> list[Place]:
    """The place of each row of a block."""
    if rule.looks_at == "position":
        return [Place(start.position + k) for k in range(len(block))]
    before = list(start.token_ids)
    return [Place(start.position + k, before + block[:k]) for k in range(len(block))]
