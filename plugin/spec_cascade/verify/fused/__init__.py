"""The verifier as fused kernels in Triton-lang: logits in, decisions out, no softmax and no law ever written to memory.

A round is four to six launches and no wait for the device. `tiles`: a log-sum-exp per tile of each row. `rows`, for
rules and samplers that need it: each row finished, its top-k, top-p and min-p cuts found. `overlap`, for rules that
need it: sums over both rows of a position. `decide`: which drafts stand. `residual`: the next token.

What is known of them: interpreted, they give the reference's tokens; Triton-lang 3.6 and 3.9 compile and assemble them
for sm_90. They have not run on a GPU yet, so nothing is claimed of their speed.
"""

from spec_cascade.verify.fused.packed import Packed
from spec_cascade.verify.fused.philox import round_uniforms, uniforms
from spec_cascade.verify.fused.pipeline import launch, sample
from spec_cascade.verify.fused.table import NotFusedError, RuleTable

__all__ = ["NotFusedError", "Packed", "RuleTable", "launch", "round_uniforms", "sample", "uniforms"]
