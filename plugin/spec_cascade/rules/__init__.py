"""Deferral rules: pure maths on rows; no engine, no I/O."""

from spec_cascade.rules.base import DeferralRule, KeepRule, NoLawError, Place, Rows
from spec_cascade.rules.drafting import check_draft_mode
from spec_cascade.rules.guards import with_default_guards
from spec_cascade.rules.kernel_codes import KernelCode
from spec_cascade.rules.parse import parse_rule

__all__ = [
    "DeferralRule",
    "KeepRule",
    "KernelCode",
    "NoLawError",
    "Place",
    "Rows",
    "check_draft_mode",
    "parse_rule",
    "with_default_guards",
]
