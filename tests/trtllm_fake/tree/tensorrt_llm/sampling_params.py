"""What a request asks for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tensorrt_llm.bindings import executor as tllme
from tests.trtllm_fake.stage import current

SHAPE = current().shape

if SHAPE.since_1_3_0:

    class LogprobMode(str, Enum):
        """Of which rows the log-probs are told."""

        RAW = "raw"
        PROCESSED = "processed"


class LogitsProcessor(ABC):
    """Changes a request's logits; travels to the request as it is."""

    @abstractmethod
    def __call__(
        self, req_id: int, logits: Any, token_ids: list[list[int]], stream_ptr: int | None, client_id: int | None
    ) -> None:
        """Change the logits in place."""


class BatchedLogitsProcessor(ABC):
    """Changes the logits of a whole batch."""

    @abstractmethod
    def __call__(
        self,
        req_ids: list[int],
        logits: list[Any],
        token_ids: list[list[list[int]]],
        stream_ptr: int,
        client_ids: list[int | None],
    ) -> None:
        """Change the logits in place."""


@dataclass(slots=True, kw_only=True)
class SamplingParams:
    """The parameters of one request; it takes no others."""

    end_id: int | None = None
    pad_id: int | None = None
    max_tokens: int = 32
    bad: str | list[str] | None = None
    bad_token_ids: list[int] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    embedding_bias: Any = None
    logits_processor: Any = None
    apply_batched_logits_processor: bool = False
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    top_k: int | None = None
    top_p: float | None = None
    top_p_min: float | None = None
    top_p_reset_ids: int | None = None
    top_p_decay: float | None = None
    seed: int | None = None
    temperature: float | None = None
    min_tokens: int | None = None
    beam_search_diversity_rate: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    length_penalty: float | None = None
    early_stopping: int | None = None
    no_repeat_ngram_size: int | None = None
    min_p: float | None = None
    beam_width_array: list[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    if SHAPE.since_1_3_0:
        logprobs_mode: LogprobMode = LogprobMode.RAW
    return_context_logits: bool = False
    return_generation_logits: bool = False
    exclude_input_from_output: bool = True
    return_encoder_output: bool = False
    return_perf_metrics: bool = False
    additional_model_outputs: list[Any] | None = None
    lookahead_config: Any = None
    guided_decoding: Any = None
    ignore_eos: bool = False
    detokenize: bool = True
    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    _stop_word_ids: list[list[int]] | None = field(default=None, init=False, repr=False)
    _bad_word_ids: list[list[int]] | None = field(default=None, init=False, repr=False)
    _stream_interval: int | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        self.best_of = self.best_of or self.n
        if self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")

    @property
    def _greedy_decoding(self) -> bool:
        return not self.use_beam_search and self.params_imply_greedy_decoding(
            temperature=self.temperature, top_p=self.top_p, top_k=self.top_k
        )

    if SHAPE.since_1_3_0:

        @staticmethod
        def params_imply_greedy_decoding(
            *, temperature: float | None, top_p: float | None, top_k: int | None, use_beam_search: bool | None = False
        ) -> bool:
            """Whether nothing is left to chance: so too where nothing is said at all."""
            return not use_beam_search and _is_greedy(temperature, top_p, top_k)

    else:

        @staticmethod
        def params_imply_greedy_decoding(*, temperature: float | None, top_p: float | None, top_k: int | None) -> bool:
            """Whether nothing is left to chance: so too where nothing is said at all."""
            return _is_greedy(temperature, top_p, top_k)

    def _setup(self, tokenizer: Any, hf_model_config: Any = None, generation_config: Any = None) -> SamplingParams:
        """Fill in what the tokenizer knows; the caller's object is changed."""
        if self.end_id is None:
            self.end_id = tokenizer.eos_token_id
            self.pad_id = self.end_id if self.pad_id is None else self.pad_id
        if self.stop is not None:
            self._stop_word_ids = [tokenizer.encode(word, add_special_tokens=False) for word in _listed(self.stop)]
        if self.bad is not None:
            self._bad_word_ids = [tokenizer.encode(word, add_special_tokens=False) for word in _listed(self.bad)]
        return self

    def _get_stop_words(self) -> list[list[int]]:
        return [words for _, words in self._get_stop_reasons_and_words()]

    def _get_stop_reasons_and_words(self) -> list[tuple[str | int, list[int]]]:
        """What ended a request, as its sender named it, beside its tokens."""
        found: list[tuple[str | int, list[int]]] = [(token, [token]) for token in self.stop_token_ids or ()]
        return found + list(zip(_listed(self.stop), self._stop_word_ids or (), strict=False))

    def _get_sampling_config(self) -> tllme.SamplingConfig:
        return tllme.SamplingConfig(
            beam_width=self.best_of if self.use_beam_search else 1,
            num_return_sequences=self.n,
            **{
                name: getattr(self, name)
                for name in ("top_k", "top_p", "seed", "temperature", "min_tokens", "min_p", "repetition_penalty")
            },
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
        )

    def _get_output_config(self) -> tllme.OutputConfig:
        return tllme.OutputConfig(
            return_log_probs=self.logprobs is not None,
            return_context_logits=self.return_context_logits,
            return_generation_logits=self.return_generation_logits,
            exclude_input_from_output=self.exclude_input_from_output,
            return_perf_metrics=self.return_perf_metrics,
        )


def _is_greedy(temperature: float | None, top_p: float | None, top_k: int | None) -> bool:
    return (temperature is None and top_p is None and top_k is None) or top_k == 1 or top_p == 0 or temperature == 0


def _listed(words: str | list[str] | None) -> list[str]:
    return [words] if isinstance(words, str) else words or []
