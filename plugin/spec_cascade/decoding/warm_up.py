"""A few rounds before the first client's: whatever runs once has run, and the costs of a round are known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.sequence import Sequence

if TYPE_CHECKING:
    from spec_cascade.decoding.loop import DecodingLoop
    from spec_cascade.engines.protocol import EngineLimits

_PROMPT = (0, 0)
_UNTIMED, _TIMED = 2, 3


def warm_up(loop: DecodingLoop, limits: EngineLimits) -> None:
    """Run rounds with and without drafts, for one request and for a full batch, and keep what they cost.

    The requests are the engine's own: they are cancelled, and what they counted is forgotten.
    """
    shortest = len(_PROMPT) + (1 + _UNTIMED + _TIMED) * (limits.max_draft_length + 1)
    if limits.max_seq_len <= shortest:
        return
    for rounds in (_UNTIMED, _TIMED):
        loop.policy.forget_costs()
        for batch_size in {1, limits.max_batch_size}:
            for draft_length in {0, limits.max_draft_length}:
                _run(loop, limits, batch_size, draft_length, rounds)
    loop.policy.forget_acceptance()
    loop.reset_statistics()


def _run(loop: DecodingLoop, limits: EngineLimits, batch_size: int, draft_length: int, rounds: int) -> None:
    for seed in range(batch_size):
        sampling = SamplingParams(seed=seed, max_tokens=limits.max_seq_len, ignore_eos=True)
        request = GenerationRequest(prompt_ids=_PROMPT, sampling=sampling, draft_length=draft_length)
        sequence = Sequence(
            request=request, rule=limits.default_rule, draft_length=draft_length, token_ids=list(_PROMPT)
        )
        loop.scheduler.add(sequence)
    for _ in range(1 + rounds):
        loop.step()
    loop.abandon(FinishReason.CANCELLED)
