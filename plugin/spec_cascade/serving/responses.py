"""What the cascade model answers: one set of output values for each round, or one for all."""

from __future__ import annotations

import json
from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from spec_cascade.serving import wire
from spec_cascade.serving.errors import describe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from spec_cascade.decoding.request import RoundOutput
    from spec_cascade.decoding.statistics import RequestStatistics
    from spec_cascade.serving.parse import CascadeRequest
    from spec_cascade.serving.wire import Field

_NUMPY = {
    wire.BOOL: np.bool_,
    wire.INT32: np.int32,
    wire.UINT64: np.uint64,
    wire.FP32: np.float32,
    wire.STRING: np.object_,
}
_LEAST = float(np.finfo(np.float32).min)


@dataclass(slots=True)
class ResponseBuilder:
    """Gathers a request's rounds into responses.

    Attributes:
        request: Says what to send.
        output_ids: All output tokens so far.
        num_sent: Those among them that earlier responses had.
        sources: Who wrote those that no response had yet.
        log_probs: The log-probs of those.
        num_responses: Responses so far.
    """

    request: CascadeRequest
    output_ids: array[int] = field(default_factory=lambda: array("i"))
    num_sent: int = 0
    sources: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_responses: int = 0

    def add(self, output: RoundOutput) -> dict[str, Any] | None:
        """Take a round's output; return a response's values if one is due."""
        self.output_ids.extend(output.token_ids)
        self.sources.extend(int(source) for source in output.sources)
        # A rule may keep a token of which the target's probability is 0, and JSON knows no infinity.
        self.log_probs.extend(max(log_prob, _LEAST) for log_prob in output.log_probs)
        if not self.request.stream and output.finish_reason is None:
            return None
        sampling = self.request.generation.sampling
        values: dict[str, Any] = {
            "output_ids": self.output_ids[:],
            "num_input_tokens": len(self.request.generation.prompt_ids),
            "num_output_tokens": len(self.output_ids) - self.num_sent,
            "finish_reason": output.finish_reason.value if output.finish_reason is not None else "",
            "response_index": self.num_responses,
        }
        if self.request.return_token_sources:
            values["token_sources"] = self.sources
        if sampling.log_probs:
            values["output_log_probs"] = self.log_probs
        if sampling.stop_strings:
            values["stop_strings"] = sampling.stop_strings
            values["stop_strings_after"] = sampling.min_tokens
        if self.request.prompt_text and self.num_responses == 0:
            values["prompt_text"] = self.request.prompt_text
        if self.request.request_token:
            values["request_token"] = self.request.request_token
        if output.statistics is not None:
            values |= _statistics(output.statistics, seed=sampling.seed)
        self.num_sent, self.sources, self.log_probs = len(self.output_ids), [], []
        self.num_responses += 1
        return values


def heartbeat(request_token: str) -> dict[str, Any]:
    """A response without content: it only has postprocessing look whether the client is still there."""
    return {"request_token": request_token}


def failure(request_token: str, error: Exception) -> dict[str, Any]:
    """An error as a response: so it takes the way of the responses before it, and does not overtake them."""
    message, status = describe(error)
    return {"request_token": request_token, "error_message": message, "error_status": status}


def to_arrays(values: Mapping[str, Any], fields: Iterable[Field]) -> dict[str, NDArray[Any]]:
    """The values as arrays of their fields' types, in the order of the fields; strings as UTF-8."""
    return {f.name: _array(f, values[f.name]) for f in fields if f.name in values}


def _array(tensor: Field, value: Any) -> NDArray[Any]:
    elements = value if tensor.is_list else [value]
    if tensor.datatype == wire.STRING:
        elements = [text.encode() for text in elements]
    made = np.array(elements, dtype=_NUMPY[tensor.datatype])
    return made[np.newaxis] if tensor.is_batch else made


def _statistics(statistics: RequestStatistics, seed: int) -> dict[str, Any]:
    return {
        "acceptance_rate": statistics.draft_acceptance_rate,
        "total_accepted_draft_tokens": statistics.num_accepted_draft_tokens,
        "total_draft_tokens": statistics.num_draft_tokens,
        "cascade_stats": json.dumps({**statistics.as_dict(), "seed": seed}),
    }
