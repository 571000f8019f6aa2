"""Rule + rows -> accepted tokens."""

from spec_cascade.verify.dispatch import Ran, round_uniforms, uniforms, verify, verify_and_report
from spec_cascade.verify.draws import Purpose
from spec_cascade.verify.reference import Verdict
from spec_cascade.verify.sampling import BatchSampling, draw
from spec_cascade.verify.scored import LogitsError

__all__ = [
    "BatchSampling",
    "LogitsError",
    "Purpose",
    "Ran",
    "Verdict",
    "draw",
    "round_uniforms",
    "uniforms",
    "verify",
    "verify_and_report",
]
