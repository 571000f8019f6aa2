"""A request as TensorRT-LLM knows it, made one that `decoding` can judge."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import COLDEST, SamplingParams
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.decoding.shaping import Shaping
from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams, other_processors, params_of, unload
from spec_cascade.errors import ConfigError
from spec_cascade.rules import check_draft_mode, parse_rule, with_default_guards

if TYPE_CHECKING:
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

log = logging.getLogger(__name__)

# Not ``py_``: such attributes are copied, deeply, for further sequences of a prompt.
_KEPT_AT = "spec_cascade_followed"
_LEFT_AT = "spec_cascade_left"
# What TorchSampler would do with the rows or the tokens and we do not; such a request is left to it.
_NOT_OURS = ("py_return_log_probs", "py_return_generation_logits", "guided_decoding_params")


class Followed:
    """What is known of a request between its rounds; it lives as long as the request that it hangs on.

    Attributes:
        sequence: Its tokens, its rule, its sampling parameters.
        tag: By which its sender knows it; None where he wants no reports.
        request_id: By which a drafter's request is known as this one's.
        max_draft_length: Most of the drafted tokens of a round that are judged.
    """

    def __init__(self, request: Any, settings: SamplerSettings) -> None:
        params = params_of(request) or CascadeParams()
        prompt_ids = tuple(request.get_tokens(0)[: request.py_orig_prompt_len])
        sampling = _sampling(request, params)
        spec, is_own = params.rule or settings.default_rule, params.rule is None or params.trusted
        rule = with_default_guards(parse_rule(spec, allow_import=is_own))
        check_draft_mode(rule, argmax_drafts=settings.draft_mode == "argmax", gates_available=True)
        self.tag = params.tag
        self.request_id: int = request.py_request_id
        self.max_draft_length = _most_drafts(params, settings) if rule.drafts else 0
        self.sequence = Sequence(
            request=GenerationRequest(prompt_ids=prompt_ids, sampling=sampling, rule=rule),
            rule=rule,
            draft_length=self.max_draft_length,
            token_ids=list(request.get_tokens(0)),
            shaping=Shaping.of(
                sampling, prompt_ids, bad_word_ids=params.bad_word_ids, end_ids=_end_ids(request, params)
            ),
        )

    @classmethod
    def of(cls, request: Any) -> Followed | None:
        """What is known of a request; None where it is followed by nobody."""
        return getattr(request, _KEPT_AT, None)

    @classmethod
    def begin(cls, request: Any, settings: SamplerSettings) -> Followed:
        """Follow a request from here on.

        Raises:
            ConfigError: What its sender asked for cannot be done.
        """
        followed = cls(request, settings)
        unload(request)
        setattr(request, _KEPT_AT, followed)
        return followed

    def catch_up(self, request: Any) -> None:
        """Take over what was committed by somebody else."""
        if request.get_num_tokens(0) != len(self.sequence.token_ids):
            self.sequence.token_ids = list(request.get_tokens(0))


def spare(request: Any, greedy: Any) -> None:
    """Have TensorRT-LLM's own samples of a request, which are not used, cost little and fail on no row.

    The argmax needs no probabilities, and stands where others assert. A least length is ours to keep: TensorRT-LLM bans
    all tokens of a request without an end token, which the drafter's requests never have.

    Args:
        request: A request of the target's that is followed, or the drafter's of one.
        greedy: What TensorRT-LLM notes on a request that it has found to be greedy; None where it notes nothing.
    """
    request.py_min_length = None
    if greedy is not None:
        request.py_sampling_strategy = greedy


def leave(request: Any) -> None:
    """Have TensorRT-LLM decide for a request that cannot be followed."""
    unload(request)
    setattr(request, _LEFT_AT, True)


def tag_of(request: Any) -> int | None:
    """By which a request's sender waits for its reports; None where nobody does."""
    followed = Followed.of(request)
    params = params_of(request)
    return followed.tag if followed else params.tag if params else None


def reject_unheard(request: Any) -> None:
    """See that a request which is not ours asks for nothing of ours.

    Raises:
        ConfigError: Its sender waits for reports that would never come. One that carries a rule only is left to
            TensorRT-LLM, with a warning.
    """
    if request.py_is_draft or request.is_dummy or (params := params_of(request)) is None:
        return
    allowed = "left out with beams, log-probs or logits of TensorRT-LLM's, guided decoding, a bias or a processor"
    if params.tag is not None:
        raise ConfigError("deferral_rule", params.rule, allowed)
    log.warning("request %s is decoded without its rule: %s", request.py_client_id, allowed)
    leave(request)


def is_ours(request: Any) -> bool:
    """Whether a request's tokens are ours to decide: no drafter's, no dummy's, and nothing that we do not offer."""
    if request.py_is_draft or request.is_dummy or getattr(request, _LEFT_AT, False):
        return False
    if request.sampling_config.beam_width != 1 or request._py_embedding_bias_1d is not None:
        return False
    return not (other_processors(request) or any(getattr(request, name, None) for name in _NOT_OURS))


def _most_drafts(params: CascadeParams, settings: SamplerSettings) -> int:
    asked = settings.draft_length if params.draft_length is None else params.draft_length
    return min(asked, settings.draft_length)


def _sampling(request: Any, params: CascadeParams) -> SamplingParams:
    """The parameters as TensorRT-LLM reads them, with those that travel beside them."""
    config = request.sampling_config
    temperature, top_k, top_p = (_only(getattr(config, name)) for name in ("temperature", "top_k", "top_p"))
    # TensorRT-LLM takes a request that says nothing of the three for a greedy one.
    is_greedy = (temperature, top_k, top_p) == (None, None, None) or top_k == 1 or top_p == 0 or temperature == 0
    max_tokens = max(1, request.py_max_new_tokens)
    return SamplingParams(
        temperature=0.0 if is_greedy else max(COLDEST, temperature or 1.0),
        top_k=0 if is_greedy else top_k or 0,
        top_p=1.0 if is_greedy else top_p or 1.0,
        min_p=0.0 if is_greedy else params.min_p,
        seed=_seed(request, params),
        repetition_penalty=params.repetition_penalty,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        max_tokens=max_tokens,
        min_tokens=min(max_tokens, params.min_tokens or _only(request.py_min_length) or 0),
        log_probs=params.log_probs,
    )


def _seed(request: Any, params: CascadeParams) -> int:
    """The sender's seed, wherever it stands; without one every request draws its own numbers."""
    if params.seed is not None:
        # Further sequences of a prompt carry the same one; they are requests of their own, counted on from the first.
        number = request.py_request_id - request.parent_request_id if getattr(request, "is_child", False) else 0
        return int(params.seed + number) % 2**64
    given = _only(getattr(request.sampling_config, "random_seed", None))
    return int(request.py_request_id if given is None else given) % 2**64


def _end_ids(request: Any, params: CascadeParams) -> frozenset[int]:
    end = request.py_end_id
    own = frozenset() if end is None or end < 0 else frozenset({int(end)})
    return own.union(params.end_ids)


def _only(values: Any) -> Any:
    """The entry of a list that TensorRT-LLM keeps for the sake of beams."""
    if isinstance(values, (list, tuple)):
        return values[0] if values else None
    return values
