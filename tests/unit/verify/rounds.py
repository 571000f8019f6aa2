"""Rounds of verification for tests: random logits that agree about half of the time, and what both verifiers say."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.verify import BatchSampling, verify
from spec_cascade.verify.reference import verify as verify_by_reference

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from torch import Tensor

    from spec_cascade.rules import DeferralRule
    from spec_cascade.verify import Verdict

# Kernel and reference sum and exponentiate in different orders: borders move by a few units of float32's last place.
NEAR = 4e-6


@dataclass(frozen=True)
class Round:
    """The arguments of `verify`."""

    draft_tokens: Tensor
    draft_logits: Tensor | None
    target_logits: Tensor
    rules: Sequence[DeferralRule]
    params: Sequence[SamplingParams]
    uniforms: Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def reference(self) -> Verdict:
        return verify_by_reference(*self._arguments(), **self.options)

    def fused(self) -> Verdict:
        """By the kernels: compiled for tensors on a GPU, interpreted for others."""
        verdict = verify(*self._arguments(), **self.options, backend="fused")
        assert verdict.ran.backend == "fused"
        return verdict

    def moved(self, accept: float, draw: float) -> Round:
        """The same round with slightly other uniforms."""
        shift = torch.tensor([accept, draw], dtype=torch.float64, device=self.uniforms.device)
        return replace(self, uniforms=(self.uniforms + shift).clamp(0, 1 - 2**-53))

    def _arguments(self) -> tuple[Any, ...]:
        sampling = BatchSampling.of(self.params, self.target_logits.device)
        return self.draft_tokens, self.draft_logits, self.target_logits, self.rules, sampling, self.uniforms


def make_round(
    rules: Sequence[DeferralRule],
    params: Sequence[SamplingParams] | SamplingParams,
    *,
    length: int = 2,
    vocab: int = 300,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    scale: float = 3.0,
    **options: Any,
) -> Round:
    """A round with drafts that were sampled from the drafter's rows."""
    batch = len(rules)
    params = [params] * batch if isinstance(params, SamplingParams) else params
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(batch, length + 1, vocab, generator=generator) * scale
    draft = (target[:, :length] + torch.randn(batch, length, vocab, generator=generator)).to(dtype)
    probs = BatchSampling.of(params).probs(draft.float())
    tokens = torch.zeros(batch, length, dtype=torch.long)
    if length:
        tokens = torch.multinomial(probs.flatten(0, 1), 1, generator=generator).view(batch, length)
    uniforms = torch.rand(batch, length + 1, 2, generator=generator, dtype=torch.float64)
    return Round(
        tokens.to(device),
        draft.to(device),
        target.to(dtype).to(device),
        rules,
        params,
        uniforms.to(device),
        {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in options.items()},
    )


def assert_agree(round_: Round) -> Verdict:
    """Kernels and reference give one verdict, token for token.

    A sequence may differ only where the reference itself changes its mind when the uniforms move by `NEAR`: its
    number then lies on a border, which the two place a rounding apart. At most one in a round may.
    """
    expected, got = round_.reference(), round_.fused()
    differing = [b for b in range(len(round_.rules)) if _of(expected, b) != _of(got, b)]
    for b in differing:
        neighbours = [_of(round_.moved(a, d).reference(), b) for a in (-NEAR, 0, NEAR) for d in (-NEAR, 0, NEAR)]
        assert _of(got, b) in neighbours, (
            f"sequence {b}, {round_.rules[b]}, {round_.params[b]}: expected {_of(expected, b)}, got {_of(got, b)}"
        )
    assert len(differing) <= 1
    return expected


def _of(verdict: Verdict, b: int) -> tuple[int, int, list[bool]]:
    return int(verdict.accepted[b]), int(verdict.next_token[b]), verdict.deferred[b].tolist()
