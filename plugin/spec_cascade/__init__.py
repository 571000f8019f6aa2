"""Speculative cascades: a drafter proposes, a target scores, a deferral rule decides whose token stands.

The verifier is `spec_cascade.verify.verify`: its package has taken the short name.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec_cascade.decoding.request import GenerationRequest, TokenSource
    from spec_cascade.decoding.sampling import SamplingParams
    from spec_cascade.engines import open_engine
    from spec_cascade.rules import DeferralRule, KeepRule, parse_rule

__all__ = [
    "DeferralRule",
    "GenerationRequest",
    "KeepRule",
    "SamplingParams",
    "TokenSource",
    "open_engine",
    "parse_rule",
]

_HOMES = {
    "spec_cascade.decoding.request": ("GenerationRequest", "TokenSource"),
    "spec_cascade.decoding.sampling": ("SamplingParams",),
    "spec_cascade.engines": ("open_engine",),
    "spec_cascade.rules": ("DeferralRule", "KeepRule", "parse_rule"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: most of them need torch, which many processes do without."""
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)
