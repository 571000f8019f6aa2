"""Rule + rows -> accepted tokens."""

from spec_cascade.verify.dispatch import round_uniforms, sample, uniforms, verify
from spec_cascade.verify.draws import Purpose
from spec_cascade.verify.sampling import BatchSampling, draw
from spec_cascade.verify.scored import LogitsError
from spec_cascade.verify.transfer import HostCopy, to_device, to_host
from spec_cascade.verify.verdict import Ran, Verdict

__all__ = [
    "BatchSampling",
    "HostCopy",
    "LogitsError",
    "Purpose",
    "Ran",
    "Verdict",
    "draw",
    "round_uniforms",
    "sample",
    "to_device",
    "to_host",
    "uniforms",
    "verify",
]
