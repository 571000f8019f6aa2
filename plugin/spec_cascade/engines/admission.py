"""What stands between a request and an engine: its limits, and whether its rule means anything there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.decoding.request import AUTO
from spec_cascade.decoding.sequence import Sequence
from spec_cascade.decoding.shaping import Shaping
from spec_cascade.decoding.statistics import RequestStatistics
from spec_cascade.errors import ConfigError
from spec_cascade.rules import check_draft_mode, with_default_guards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from spec_cascade.decoding.models import Drafts
    from spec_cascade.decoding.request import GenerationRequest
    from spec_cascade.decoding.stop import StopConditions
    from spec_cascade.engines.protocol import EngineLimits
    from spec_cascade.rules import DeferralRule


@dataclass(frozen=True, slots=True)
class Admission:
    """Makes a request a sequence, or refuses it.

    Attributes:
        limits: Of the engine.
        stop: Where its outputs end.
        drafts: What its drafter proposes; None without one.
        bad_word_ids: The token sequences that a bad word may be written as; None where there is no tokenizer.

    Raises:
        ConfigError: The default rule means nothing with this drafter.
    """

    limits: EngineLimits
    stop: StopConditions
    drafts: Drafts | None
    bad_word_ids: Callable[[str], Iterable[tuple[int, ...]]] | None

    def __post_init__(self) -> None:
        self._check_meaning(self.limits.default_rule)

    def admit(self, request: GenerationRequest) -> Sequence:
        """The sequence of a request, unshaped: that costs more than all else here, and is not every engine's to do.

        Raises:
            ConfigError: It exceeds the limits, or asks for what this engine cannot do; the field is named.
        """
        self._check(request)
        rule = with_default_guards(request.rule or self.limits.default_rule)
        self._check_meaning(rule)
        chosen = self.limits.default_draft_length if request.draft_length is None else request.draft_length
        draft_length = 0 if self.drafts is None else chosen
        return Sequence(
            request=request,
            rule=rule,
            draft_length=draft_length,
            token_ids=list(request.prompt_ids),
            deadline=None if request.timeout_ms is None else time.monotonic() + request.timeout_ms / 1000,
            statistics=RequestStatistics(
                rule=str(rule),
                rule_params=rule.parameters,
                lossy=rule.lossy,
                num_spec_tokens=draft_length,
                num_prompt_tokens=len(request.prompt_ids),
            ),
        )

    def shaping(self, request: GenerationRequest) -> Shaping | None:
        """What a request does to logits; None is nothing.

        Raises:
            ConfigError: It has bad words, and there is no tokenizer.
        """
        sampling = request.sampling
        return Shaping.of(
            sampling,
            request.prompt_ids,
            bad_word_ids=self.banned(sampling.bad_words),
            end_ids=self.stop.end_ids(sampling),
        )

    def banned(self, words: tuple[str, ...]) -> list[tuple[int, ...]]:
        """The token sequences of bad words.

        Raises:
            ConfigError: There are some, and no tokenizer.
        """
        if not words:
            return []
        if self.bad_word_ids is None:
            raise ConfigError("bad_words", list(words), "left out: this engine has no tokenizer")
        return [ids for word in words for ids in self.bad_word_ids(word)]

    def _check_meaning(self, rule: DeferralRule) -> None:
        if self.drafts is not None:
            one_hot = self.drafts != "sampled"
            check_draft_mode(rule, argmax_drafts=one_hot, gates_available=self.drafts != "lookup")

    def _check(self, request: GenerationRequest) -> None:
        limits = self.limits
        longest = limits.max_seq_len - 1
        if len(request.prompt_ids) > longest:
            raise ConfigError("prompt", f"{len(request.prompt_ids)} tokens", f"at most {longest} tokens long")
        if not all(0 <= token < limits.vocab_size for token in request.prompt_ids):
            raise ConfigError("prompt", "a token id", f"below the vocabulary size {limits.vocab_size}")
        if request.draft_length is not None and request.draft_length > limits.max_draft_length:
            allowed = f"an integer in [0, {limits.max_draft_length}], or {AUTO} for automatic"
            raise ConfigError("draft_length", request.draft_length, allowed)
