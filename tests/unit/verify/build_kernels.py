"""Compiles the kernels for an NVIDIA sm_90 down to machine code; needs no GPU: Triton-lang brings its assembler.

The interpreter lets pass what the compiler refuses (branches of two types, globals, untyped scalars). To be run as a
program of its own, without ``TRITON_INTERPRET``; prints one line per kernel built.
"""

from __future__ import annotations

import inspect
import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import parse_rule
from spec_cascade.verify import BatchSampling, Purpose
from spec_cascade.verify.fused import RuleTable, jit, launch, philox, pipeline

TARGET = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.uint8: "*u8",
}


def build(kernel, programs, *args, warps=4, **constants):
    """Stands in for `spec_cascade.verify.fused.jit.run`: compiles for the arguments instead of launching."""
    assert programs > 0
    arguments = inspect.signature(kernel.fn).bind(*args, **constants).arguments
    signature, constexprs, attributes = {}, {}, {}
    for index, (name, value) in enumerate(arguments.items()):
        # As a launch specialises: 1 becomes a constant, multiples of 16 (and torch's pointers) are known as such.
        if kernel.params[index].is_constexpr or (isinstance(value, int) and value == 1):
            signature[name], constexprs[name] = "constexpr", value
        else:
            pointer = isinstance(value, torch.Tensor)
            signature[name] = TYPES[value.dtype] if pointer else "i32"
            if pointer or value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=attributes)
    built = triton.compile(source, target=TARGET, options={"num_warps": warps, "enable_fp_fusion": False})
    sys.stdout.write(f"{kernel.__name__} {len(built.asm['cubin'])} bytes\n")


def build_round(rules, length, vocab, draft_type, target_type, **options):
    """All kernels of one round; ``draft_type`` None for a drafter without logits."""
    batch = len(rules)
    tokens = torch.zeros(batch, length, dtype=torch.long)
    launch(
        tokens,
        None if draft_type is None else torch.empty(batch, length, vocab, dtype=draft_type),
        torch.empty(batch, length + 1, vocab, dtype=target_type),
        RuleTable.of([parse_rule(rule) for rule in rules], tokens),
        BatchSampling.of([SamplingParams()] * batch),
        torch.empty(batch, length + 1, 2, dtype=torch.float64),
        **options,
    )


def main() -> None:
    assert jit.run is pipeline.run
    pipeline.run = philox.run = build
    every_pass = ["diff_log:alpha=0.1", "margin:alpha=0.1", "opt:alpha=0.1"]
    build_round(["strict", "strict"], 4, 128256, torch.bfloat16, torch.bfloat16, truncates=False)
    ragged = {"draft_lengths": torch.ones(3, dtype=torch.long), "argmax_drafts": torch.ones(3, dtype=torch.bool)}
    build_round(every_pass, 3, 5003, torch.float16, torch.float32, truncates=True, **ragged)
    build_round(["token_v3:alpha=0.1"], 1, 32000, torch.float32, torch.bfloat16, truncates=False)
    build_round(["token_v1:alpha=-0.1"], 2, 2, None, torch.float16, truncates=False)
    build_round(["strict", "strict"], 0, 151936, None, torch.bfloat16, truncates=True)
    ones = torch.ones(3, dtype=torch.long)
    philox.uniforms(ones, ones, Purpose.DRAFT)
    philox.round_uniforms(ones, ones, 4)


if __name__ == "__main__":
    main()
