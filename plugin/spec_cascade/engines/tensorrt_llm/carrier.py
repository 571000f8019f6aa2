"""What a request asks of the cascade, carried to every worker by a logits processor that does nothing.

TensorRT-LLM has no field for strangers, but hands a request's logits processors on as they are: pickled with the
request to rank 0, broadcast from there to every other rank, and hung on its ``LlmRequest`` as
``py_logits_post_processors``, a list. The model engine calls each of them once per request and forward, with five
arguments; ours returns at once, so that the rows stay as they were.

A processor of the user's own cannot stand beside drafts: the model engine counts one row per request where a request
with K drafted tokens has K + 1, so it would change the rows of somebody else. `attach` refuses it, and
`other_processors` finds one that came another way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError

_AT = "py_logits_post_processors"


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeParams:
    """What one request asks for beyond TensorRT-LLM's own sampling parameters.

    It has neither a length nor a truth value, for TensorRT-LLM drops a processor that is false.

    Attributes:
        tag: By which the sender knows the request again in the reports of its rounds.
        rule: Deferral rule in `parse_rule` syntax; None takes the engine's default.
        trusted: Whether the rule's text may name a module, which every worker then imports. Never for a client's text.
        draft_length: Most drafted tokens of a round that are judged; None takes the engine's, 0 decodes without.
        seed: Key of the request's draws; None leaves it to the engine.
        min_p: Drop tokens less likely than this times the most likely one.
        repetition_penalty: See `decoding.sampling.SamplingParams`, also for those that follow.
        presence_penalty: Subtracted from the logits of all tokens of the output.
        frequency_penalty: Subtracted as often as the token stands in the output.
        min_tokens: Tokens to emit before any of ``end_ids`` may come.
        log_probs: Report the log of the target's probability of every token.
        bad_word_ids: Token sequences that the output must not have.
        end_ids: Tokens that end the output, beside the end token that TensorRT-LLM knows.
    """

    tag: int | None = None
    rule: str | None = None
    trusted: bool = False
    draft_length: int | None = None
    seed: int | None = None
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_tokens: int = 0
    log_probs: bool = False
    bad_word_ids: tuple[tuple[int, ...], ...] = ()
    end_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.rule is not None and (not isinstance(self.rule, str) or not self.rule):
            raise ConfigError("deferral_rule", self.rule, "a rule's text")
        for name in ("tag", "draft_length", "seed"):
            if getattr(self, name) is not None and not _is_id(getattr(self, name)):
                raise ConfigError(name, getattr(self, name), "an integer >= 0")
        for name in ("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "min_tokens"):
            if not isinstance(getattr(self, name), (int, float)):
                raise ConfigError(name, getattr(self, name), "a number")
        if not all(isinstance(ids, (tuple, list)) and all(map(_is_id, ids)) for ids in self.bad_word_ids):
            raise ConfigError("bad_word_ids", self.bad_word_ids, "sequences of token ids")
        if not all(map(_is_id, self.end_ids)):
            raise ConfigError("end_ids", self.end_ids, "token ids")
        # Here, where the sender learns of it; the sampler could only end the request.
        SamplingParams(
            seed=self.seed or 0,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            max_tokens=max(1, self.min_tokens),
            min_tokens=self.min_tokens,
        )

    def __call__(self, req_id: int, logits: Any, token_ids: Any, stream_ptr: Any, client_id: Any) -> None:
        """Leave the rows as they are; TensorRT-LLM calls this as it would any logits processor."""


def attach(sampling_params: Any, params: CascadeParams) -> None:
    """Put a request's wishes onto TensorRT-LLM's ``SamplingParams``, in the place of earlier ones of ours.

    Raises:
        ConfigError: There is a logits processor of the user's, or one for the whole batch.
    """
    given = sampling_params.logits_processor
    if any(not isinstance(processor, CascadeParams) for processor in _as_list(given)):
        raise ConfigError("logits_processor", given, f"left out: {_WHY_ALONE}")
    if getattr(sampling_params, "apply_batched_logits_processor", False):
        raise ConfigError("apply_batched_logits_processor", True, f"left out: {_WHY_ALONE}")
    # A list of its own: within one process it hangs on the request as it is.
    sampling_params.logits_processor = [params]


def params_of(request: Any) -> CascadeParams | None:
    """What a request of TensorRT-LLM's carries; None where its sender asked for nothing."""
    found = [p for p in _as_list(getattr(request, _AT, None)) if isinstance(p, CascadeParams)]
    return found[-1] if found else None


def other_processors(request: Any) -> list[Any]:
    """The logits processors of a request that are its user's own."""
    return [p for p in _as_list(getattr(request, _AT, None)) if not isinstance(p, CascadeParams)]


def unload(request: Any) -> None:
    """Take ours off a request, once its wishes are known.

    Each one that stays costs a copy of all the request's tokens and of a row per forward.
    """
    left = other_processors(request)
    # Never the list itself: within one process it is the one on the caller's `SamplingParams`.
    setattr(request, _AT, left or None)


_WHY_ALONE = "with drafts TensorRT-LLM would apply it to rows of other requests"


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _as_list(processors: Any) -> list[Any]:
    if processors is None:
        return []
    return list(processors) if isinstance(processors, (list, tuple)) else [processors]
