"""Which verifier runs: the fused kernels for CUDA tensors wherever they can, the reference for everything else."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch

from spec_cascade.errors import ConfigError
from spec_cascade.verify import draws, reference
from spec_cascade.verify.sampling import draw
from spec_cascade.verify.scored import widened
from spec_cascade.verify.verdict import Ran, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from spec_cascade.rules.base import DeferralRule, Place
    from spec_cascade.verify.draws import Purpose
    from spec_cascade.verify.fused import RuleTable
    from spec_cascade.verify.sampling import BatchSampling

Backend = Literal["auto", "reference", "fused"]
_FUSED_TYPES = (torch.float16, torch.bfloat16, torch.float32)


def verify(
    draft_tokens: Tensor,
    draft_logits: Tensor | None,
    target_logits: Tensor,
    rules: Sequence[DeferralRule],
    sampling: BatchSampling,
    uniforms: Tensor,
    *,
    draft_lengths: Tensor | None = None,
    places: Sequence[Place] | None = None,
    vocab_size: int | None = None,
    argmax_drafts: Tensor | None = None,
    draft_index: Tensor | None = None,
    backend: Backend = "auto",
) -> Verdict:
    """Decide which drafted tokens stand, and draw the token that follows; see `spec_cascade.verify.reference.verify`.

    The verdict is on the host, drafted tokens included, and names the verifier that ran: of a round on a GPU it is the
    one copy.

    Args:
        draft_tokens: ``[B, K]``.
        draft_logits: ``[B, K, V]`` or None.
        target_logits: ``[B, K+1, V]``.
        rules: Rule of each sequence.
        sampling: Sampling parameters of each sequence.
        uniforms: ``[B, K+1, 2]``.
        draft_lengths: ``[B]`` or None.
        places: Where each sequence's first drafted row stands in its request.
        vocab_size: Tokens that exist.
        argmax_drafts: ``[B]`` or None.
        draft_index: ``[Vd]`` or None; the kernels get rows of -inf elsewhere.
        backend: ``reference`` or ``fused`` insist on one; ``fused`` also runs interpreted on the CPU.

    Raises:
        LogitsError: A row holds NaN, +inf or nothing but -inf; the message names it.
        ConfigError: ``fused`` was asked for where it cannot run; the message says why.
        ValueError: The widths do not fit, or the reference finds a drafted id that is not in ``draft_index``.
    """
    obstacle = _obstacle(draft_logits, target_logits, backend)
    table = None
    if not obstacle:
        table, obstacle = _table(rules, draft_tokens, places)
    if backend == "fused" and obstacle:
        raise ConfigError("backend", backend, f"reference or auto here: {obstacle}")
    if table is not None:
        from spec_cascade.verify.fused import launch

        if draft_logits is not None and draft_index is not None:
            vocab = reference.vocabulary(draft_logits, target_logits, vocab_size, draft_index)
            draft_logits = widened(draft_logits, draft_index, vocab)
        return launch(
            draft_tokens,
            draft_logits,
            target_logits,
            table,
            sampling,
            uniforms,
            draft_lengths=draft_lengths,
            argmax_drafts=argmax_drafts,
            vocab_size=vocab_size,
        ).verdict()
    verdict = reference.verify(
        draft_tokens,
        draft_logits,
        target_logits,
        rules,
        sampling,
        uniforms,
        draft_lengths=draft_lengths,
        places=places,
        vocab_size=vocab_size,
        argmax_drafts=argmax_drafts,
        draft_index=draft_index,
    )
    return verdict.on_host(Ran("reference", obstacle))


def sample(
    logits: Tensor, sampling: BatchSampling, uniforms: Tensor, *, vocab_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """One token of each sequence from its own row, left on the device: a step of plain decoding, or of a drafter.

    The kernels do it as a round without drafts, whatever the truncation, and nothing waits for the device. Elsewhere
    the reference does it, which waits for a GPU where a row is truncated.

    Args:
        logits: ``[B, V]``.
        sampling: Sampling parameters of each sequence.
        uniforms: Numbers in [0, 1), ``[B]``.
        vocab_size: Tokens that exist; None is all of V.

    Returns:
        Token ids ``[B]`` that exist, and whether each row makes a distribution, ``[B]``; it does not where it holds
        NaN, +inf or nothing but -inf, and its token then means nothing.
    """
    vocab = logits.shape[-1] if vocab_size is None else vocab_size
    if _obstacle(None, logits, "auto"):
        logits = logits[:, :vocab]
        probs = sampling.probs(logits[:, None]).squeeze(1)
        # What does not exist would end the process in the next embedding, on a GPU.
        tokens = draw(probs, uniforms).clamp(0, vocab - 1)
        at = tokens[:, None]
        return tokens, (logits.gather(-1, at).isfinite() & probs.gather(-1, at).isfinite()).squeeze(-1)
    from spec_cascade.verify import fused

    tokens, errors = fused.sample(logits, sampling, uniforms, vocab_size=vocab)
    return tokens.clamp(0, vocab - 1), errors == 0


def uniforms(seeds: Tensor, positions: Tensor, purpose: Purpose) -> Tensor:
    """See `spec_cascade.verify.draws.uniforms`; on a GPU one kernel makes the same numbers."""
    if seeds.device.type != "cuda" or not _has_triton():
        return draws.uniforms(seeds, positions, purpose)
    from spec_cascade.verify.fused import philox

    return philox.uniforms(seeds, positions, purpose)


def round_uniforms(seeds: Tensor, positions: Tensor, length: int) -> Tensor:
    """See `spec_cascade.verify.draws.round_uniforms`; on a GPU one kernel makes the same numbers."""
    if seeds.device.type != "cuda" or not _has_triton():
        return draws.round_uniforms(seeds, positions, length)
    from spec_cascade.verify.fused import philox

    return philox.round_uniforms(seeds, positions, length)


def _obstacle(draft_logits: Tensor | None, target_logits: Tensor, backend: Backend) -> str:
    """Why the kernels cannot take these tensors; empty if they can. Rules are another matter."""
    logits = [rows for rows in (draft_logits, target_logits) if rows is not None]
    if backend == "reference":
        return "the reference was asked for"
    if backend == "auto" and target_logits.device.type != "cuda":
        return "the logits are not on a CUDA device"
    if not _has_triton():
        return "Triton-lang is not installed"
    if any(rows.dtype not in _FUSED_TYPES for rows in logits):
        return "the logits are not float16, bfloat16 or float32"
    if any(rows.stride(-1) != 1 for rows in logits):
        return "the logits are not contiguous along the vocabulary"
    return ""


def _table(
    rules: Sequence[DeferralRule], draft_tokens: Tensor, places: Sequence[Place] | None
) -> tuple[RuleTable | None, str]:
    """The rules for the kernels, or why there is none."""
    from spec_cascade.verify.fused import NotFusedError, RuleTable

    try:
        return RuleTable.of(rules, draft_tokens, places), ""
    except NotFusedError as error:
        return None, str(error)


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
