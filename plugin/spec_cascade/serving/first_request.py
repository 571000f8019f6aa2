"""The server's own first request: a model is ready when its engine has answered one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from spec_cascade.engines.protocol import Engine

# A first token, and a round that may draft.
_TOKENS = 2


def answer_first_request(engine: Engine) -> None:
    """Have the engine run its first rounds; returns when they are done.

    Raises:
        EngineError: It failed.
    """
    sampling = SamplingParams(max_tokens=_TOKENS, temperature=0, ignore_eos=True, seed=0)
    *_, last = engine.submit(GenerationRequest(prompt_ids=(0,), sampling=sampling))
    if last.finish_reason is not FinishReason.LENGTH:
        engine.close()
        raise EngineError(f"the engine did not answer its first request: {last.error or last.finish_reason}")
