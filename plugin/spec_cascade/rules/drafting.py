"""Which rules make sense under which way of drafting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from spec_cascade.rules.base import DeferralRule


def check_draft_mode(rule: DeferralRule, argmax_drafts: bool, gates_available: bool) -> None:
    """Refuse a rule that would decide nothing, or everything, under this way of drafting.

    Args:
        rule: The rule of an engine or a request.
        argmax_drafts: The drafter proposes its argmax whatever the temperature (or looks the prompt up), so that q is
            one-hot at temperatures above 0 too. Decoding at temperature 0 alone does not count.
        gates_available: The drafter's raw logits reach the verifier, so that q~ can be read from them. If not, q~ is
            the one-hot row.

    Raises:
        ConfigError: With the reason.
    """
    reason = rule.loses_meaning(argmax_drafts=argmax_drafts, gates_available=gates_available)
    if reason is not None:
        raise ConfigError(
            "deferral_rule",
            str(rule),
            f"a rule that keeps its meaning with {_mode(argmax_drafts, gates_available)}: {reason}. "
            "Rules that read the target's row alone do: token_v2, token_v3, top_k, margin, relaxed, typical",
        )


def _mode(argmax_drafts: bool, gates_available: bool) -> str:
    drafts = "argmax drafts" if argmax_drafts else "sampled drafts"
    return drafts if gates_available else f"{drafts} without the drafter's logits"
