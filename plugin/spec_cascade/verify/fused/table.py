"""The rules of a batch as tensors: one closed form and its number per drafted row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.verify.grouping import rules_of_rows
from spec_cascade.verify.transfer import to_device, to_host

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule, Place

_ENTROPY = {KernelCode.CHOW_LOG, KernelCode.DIFF_LOG}
_RANKS = {KernelCode.TOP_K, KernelCode.MARGIN}
_TOKEN = {KernelCode.TOKEN_V1, KernelCode.TOKEN_V2, KernelCode.TOKEN_V3} | _RANKS
_GATES = {KernelCode.CHOW, KernelCode.DIFF, KernelCode.OPT} | _ENTROPY | _TOKEN
_OVERLAP = {KernelCode.OPT, KernelCode.DIVERGENCE_TV} | _TOKEN


class NotFusedError(Exception):
    """A rule has no closed form in a kernel; its text is the reason, for statistics."""


@dataclass(frozen=True, slots=True)
class RuleTable:
    """Closed forms of the drafted rows of a batch; make it with `of`, once per round or once for many.

    Attributes:
        codes: `KernelCode` of each row, int32 ``[B, K]``.
        parameters: Its number, float64 ``[B, K]``.
        gates: Whether any rule reads a gate row.
        entropy: Whether any reads its entropy.
        ranks: Whether any asks for the p~ at a rank.
        overlaps: Whether any may need a sum over both rows of a position.
    """

    codes: Tensor
    parameters: Tensor
    gates: bool
    entropy: bool
    ranks: bool
    overlaps: bool

    @classmethod
    def of(
        cls, rules: Sequence[DeferralRule], draft_tokens: Tensor, places: Sequence[Place] | None = None
    ) -> RuleTable:
        """The table of a batch, on the device of ``draft_tokens`` ``[B, K]``.

        Drafted tokens are fetched to the host for rules that look at tokens, and only then: a wait of their own. The
        table travels without one.

        Args:
            rules: Rule of each sequence.
            draft_tokens: Drafted ids.
            places: Where each sequence's first drafted row stands in its request.

        Raises:
            NotFusedError: A rule that judges a row has no closed form in a kernel.
        """
        batch, length = draft_tokens.shape
        tokens = torch.zeros((batch, length), dtype=torch.long)
        if any(rule.looks_at == "tokens" for rule in rules):
            tokens = to_host(draft_tokens)
        distinct, which = rules_of_rows(rules, places, tokens, torch.full((batch,), length))
        return cls.of_codes([_closed_form(rule) for rule in distinct], which, draft_tokens.device)

    @classmethod
    def of_codes(
        cls, forms: Sequence[tuple[KernelCode, float]], which: Tensor, device: torch.device | str = "cpu"
    ) -> RuleTable:
        """The table of closed ``forms`` and their numbers; ``which`` ``[B, K]``, on the host, picks each row's."""
        present = {code for code, _ in forms}
        codes = torch.tensor([int(code) for code, _ in forms])
        parameters = torch.tensor([parameter for _, parameter in forms], dtype=torch.float64)
        return cls(
            codes=to_device(codes[which], torch.int32, device),
            parameters=to_device(parameters[which], torch.float64, device),
            gates=bool(present & _GATES),
            entropy=bool(present & _ENTROPY),
            ranks=bool(present & _RANKS),
            overlaps=bool(present & _OVERLAP),
        )

    @classmethod
    def nothing(cls, batch: int, device: torch.device) -> RuleTable:
        """The table of ``batch`` sequences without drafts: no rows, nothing sent."""
        codes = torch.empty(batch, 0, dtype=torch.int32, device=device)
        return cls(codes, codes.double(), gates=False, entropy=False, ranks=False, overlaps=False)


def _closed_form(rule: DeferralRule) -> tuple[KernelCode, float]:
    if rule.kernel_code is None:
        raise NotFusedError(f"rule {rule.name} has no fused form")
    parameters = rule.kernel_parameters()
    return rule.kernel_code, parameters[0] if parameters else 0.0
