"""What C++ gives: states of requests, and the sampling parameters as it keeps them."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tensorrt_llm.bindings import executor


class LlmRequestState(Enum):
    """How far a request is."""

    UNKNOWN = 0
    ENCODER_INIT = 1
    CONTEXT_INIT = 2
    GENERATION_IN_PROGRESS = 3
    GENERATION_TO_COMPLETE = 4
    GENERATION_COMPLETE = 5
    DISAGG_GENERATION_INIT = 7
    DISAGG_GENERATION_TRANS_IN_PROGRESS = 8
    DISAGG_GENERATION_TRANS_COMPLETE = 9


class SamplingConfig:
    """Every field is a list of one entry, or None: there could be one entry a beam."""

    def __init__(self, config: executor.SamplingConfig) -> None:
        self.beam_width = config.beam_width
        self.num_return_sequences = config.num_return_sequences
        self.beam_width_array = None
        self.temperature = _listed(config.temperature)
        self.top_k = _listed(config.top_k)
        self.top_p = _listed(config.top_p)
        self.min_length = _listed(config.min_tokens)
        self.random_seed = _listed(config.seed)
        self.min_p = _listed(config.min_p)
        self.repetition_penalty = _listed(config.repetition_penalty)
        self.presence_penalty = _listed(config.presence_penalty)
        self.frequency_penalty = _listed(config.frequency_penalty)


def _listed(value: Any) -> list[Any] | None:
    return None if value is None else [value]
