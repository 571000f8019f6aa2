"""A request as C++ keeps it: tokens, chunks, state, responses."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any

from tensorrt_llm.bindings import LlmRequestState
from tensorrt_llm.bindings.executor import FinishReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tensorrt_llm.bindings import SamplingConfig


@dataclass(kw_only=True)
class Result:
    """What a response says of one sequence."""

    is_final: bool
    output_token_ids: list[list[int]]
    finish_reasons: list[FinishReason]
    sequence_index: int
    decoding_iter: int
    avg_decoded_tokens_per_iter: float | None


class LlmRequest:
    """The base of the request; any attribute can be added."""

    def __init__(
        self,
        request_id: int,
        max_new_tokens: int,
        input_tokens: Sequence[int],
        sampling_config: SamplingConfig,
        is_streaming: bool = False,
        end_id: int | None = None,
        pad_id: int | None = None,
        embedding_bias: Any = None,
        bad_words_list: Any = None,
        stop_words_list: Any = None,
        client_id: int | None = None,
        return_log_probs: bool = False,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        return_perf_metrics: bool = False,
        exclude_input_from_output: bool = True,
        guided_decoding_params: Any = None,
        draft_tokens: Sequence[int] | None = None,
        parent: LlmRequest | None = None,
        sequence_index: int = 0,
    ) -> None:
        self.request_id = request_id
        self.parent_request_id = request_id if parent is None else parent.request_id
        self.is_child = parent is not None
        self.sequence_index = sequence_index
        self.llm_request_type = "LLMREQUEST_TYPE_CONTEXT_AND_GENERATION"
        self.max_new_tokens = max_new_tokens
        self.prompt_len = self.orig_prompt_len = len(input_tokens)
        self.sampling_config = sampling_config
        self.streaming = is_streaming
        self.end_id = end_id
        self.pad_id = pad_id
        self.embedding_bias = embedding_bias
        self.return_log_probs = return_log_probs
        self.return_perf_metrics = return_perf_metrics
        self.exclude_input_from_output = exclude_input_from_output
        self.guided_decoding_params = guided_decoding_params
        self.client_id = client_id
        self.state = LlmRequestState.CONTEXT_INIT
        self.seq_slot: int | None = None
        self.is_dummy_request = False
        self.decoding_iter = 0
        self.context_current_position = 0
        self._context_chunk_size = self.prompt_len
        self._draft_tokens: list[int] | None = None
        self.draft_tokens = draft_tokens
        self._tokens = [[index(token) for token in input_tokens] for _ in range(sampling_config.beam_width)]
        self._finish_reasons = [FinishReason.NOT_FINISHED] * sampling_config.beam_width
        self._sent = self.prompt_len

    # Tokens.

    def add_new_token(self, token: int, beam: int) -> None:
        """Commit a token; anything that is an index passes for one, a tensor of one number too."""
        self._tokens[beam].append(index(token))

    def get_tokens(self, beam: int | None = None) -> Any:
        """A copy of a beam's tokens, prompt included; of all beams' for None."""
        return [list(tokens) for tokens in self._tokens] if beam is None else list(self._tokens[beam])

    def get_token(self, beam: int, pos: int) -> int:
        """One token."""
        return self._tokens[beam][pos]

    def get_last_tokens(self, beam: int) -> int:
        """The newest one."""
        return self._tokens[beam][-1]

    def get_num_tokens(self, beam: int) -> int:
        """How many there are, prompt included."""
        return len(self._tokens[beam])

    @property
    def max_beam_num_tokens(self) -> int:
        """How many the longest beam has."""
        return max(map(len, self._tokens))

    def set_generated_tokens(self, generated_beam_tokens: list[list[int]]) -> None:
        """Replace what stands behind the prompt."""
        for tokens, generated in zip(self._tokens, generated_beam_tokens, strict=True):
            tokens[self.prompt_len :] = generated

    @property
    def draft_tokens(self) -> list[int] | None:
        """The drafted tokens, as C++ has them."""
        return self._draft_tokens

    @draft_tokens.setter
    def draft_tokens(self, tokens: Iterable[int] | None) -> None:
        self._draft_tokens = None if tokens is None else [index(token) for token in tokens]

    def get_beam_width_by_iter(self, for_next_iteration: bool = False) -> int:
        """How many beams there are."""
        return int(self.sampling_config.beam_width)

    # State.

    @property
    def is_context_init_state(self) -> bool:
        """Whether a part of the prompt is still to be processed."""
        return self.state is LlmRequestState.CONTEXT_INIT

    @property
    def is_generation_in_progress_state(self) -> bool:
        """Whether it generates."""
        return self.state in (LlmRequestState.GENERATION_IN_PROGRESS, LlmRequestState.GENERATION_TO_COMPLETE)

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.state is LlmRequestState.GENERATION_COMPLETE

    @property
    def is_disagg_generation_transmission_complete(self) -> bool:
        """Whether its KV cache has come from elsewhere."""
        return self.state is LlmRequestState.DISAGG_GENERATION_TRANS_COMPLETE

    def set_finished_reason(self, finish_reason: FinishReason, beam: int) -> None:
        """Say why a beam ended."""
        self._finish_reasons[beam] = finish_reason

    def finish_by_reason(self, finish_reason: FinishReason) -> None:
        """End all beams that have not ended yet."""
        for beam, reason in enumerate(self._finish_reasons):
            if reason is FinishReason.NOT_FINISHED:
                self._finish_reasons[beam] = finish_reason
        self.state = LlmRequestState.GENERATION_COMPLETE

    # Chunks of the prompt.

    @property
    def context_chunk_size(self) -> int:
        """Prompt tokens of the next step; may be asked for while there is one only."""
        self._check_context()
        return self._context_chunk_size

    @context_chunk_size.setter
    def context_chunk_size(self, size: int) -> None:
        self._check_context()
        self._context_chunk_size = min(size, self.context_remaining_length)

    @property
    def context_remaining_length(self) -> int:
        """Prompt tokens that no chunk has had yet."""
        return self.prompt_len - self.context_current_position

    @property
    def is_first_context_chunk(self) -> bool:
        """Whether no chunk is behind it."""
        return self.context_current_position == 0

    @property
    def is_last_context_chunk(self) -> bool:
        """Whether the next chunk is the last."""
        return self.context_current_position + self.context_chunk_size == self.prompt_len

    def move_to_next_context_chunk(self) -> None:
        """A chunk is behind it."""
        self._check_context()
        self.context_current_position += self._context_chunk_size
        self._context_chunk_size = 0

    def _check_context(self) -> None:
        if not self.is_context_init_state:
            raise RuntimeError("the size of a chunk may be asked for in the context phase only")

    # Responses.

    @property
    def avg_decoded_tokens_per_iter(self) -> float | None:
        """Tokens a round."""
        generated = self.max_beam_num_tokens - self.prompt_len
        return generated / self.decoding_iter if self.decoding_iter else None

    def update_perf_metrics(self, iter_counter: int) -> None:
        """Note when it was served."""

    def create_serialized_result(
        self, use_fast_logits: bool = False, mpi_world_rank: int = 0
    ) -> tuple[Result | None, bool]:
        """What is new since the last response, or everything at the end; None where there is nothing to say."""
        if not self.is_finished and not self.streaming:
            return None, False
        tokens = self._tokens[0][self._sent if self.streaming else self.orig_prompt_len :]
        if not self.streaming and not self.exclude_input_from_output:
            tokens = list(self._tokens[0])
        if not tokens and not self.is_finished:
            return None, False
        self._sent = len(self._tokens[0])
        result = Result(
            is_final=self.is_finished,
            output_token_ids=[tokens],
            finish_reasons=list(self._finish_reasons),
            sequence_index=self.sequence_index,
            decoding_iter=self.decoding_iter,
            avg_decoded_tokens_per_iter=self.avg_decoded_tokens_per_iter,
        )
        return result, self.is_finished
