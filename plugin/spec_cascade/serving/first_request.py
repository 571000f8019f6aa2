"""The server's own first request: a model is ready when its engine has answered one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import EngineError, SpecCascadeError

if TYPE_CHECKING:
    from spec_cascade.engines.protocol import Engine
    from spec_cascade.rules import DeferralRule

# A first token, and a round that may draft.
_TOKENS = 2


def answer_first_request(engine: Engine, default_rule: DeferralRule | None = None) -> None:
    """Have the engine run its first rounds; returns when they are done, and closes the engine if that fails.

    Args:
        engine: To be served.
        default_rule: The rule of requests that name none; None is the engine's.

    Raises:
        ConfigError: The rule means nothing with this engine's drafter.
        EngineError: It failed.
    """
    sampling = SamplingParams(max_tokens=_TOKENS, temperature=0, ignore_eos=True, seed=0)
    try:
        *_, last = engine.submit(GenerationRequest(prompt_ids=(0,), sampling=sampling, rule=default_rule))
        if last.finish_reason is not FinishReason.LENGTH:
            raise EngineError(f"the engine did not answer its first request: {last.error or last.finish_reason}")
    except SpecCascadeError:
        engine.close()
        raise
