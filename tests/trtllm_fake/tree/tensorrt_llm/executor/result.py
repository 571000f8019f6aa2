"""What a request gives, as it grows."""

from __future__ import annotations

import asyncio
import queue
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from tensorrt_llm.bindings.executor import FinishReason
from tensorrt_llm.executor.utils import RequestError
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tensorrt_llm._torch.pyexecutor.llm_request import LlmResponse
    from tensorrt_llm.sampling_params import SamplingParams

_NAMES = {
    FinishReason.END_ID: "stop",
    FinishReason.STOP_WORDS: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TIMED_OUT: "timeout",
    FinishReason.CANCELLED: "cancelled",
}


class Logprob(NamedTuple):
    """How likely a token was, and which place it had."""

    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One sequence."""

    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[Any] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    generation_logits: Any = None
    additional_context_outputs: dict[str, Any] | None = None
    additional_generation_outputs: dict[str, Any] | None = None
    disaggregated_params: Any = None
    request_perf_metrics: Any = None
    _last_text_len: int = field(default=0, init=False, repr=False)
    _last_token_ids_len: int = field(default=0, init=False, repr=False)
    _last_logprobs_len: int = field(default=0, init=False, repr=False)

    @property
    def length(self) -> int:
        """Its tokens."""
        return len(self.token_ids)

    @property
    def text_diff(self) -> str:
        """The text since the response before."""
        return self.text[self._last_text_len :]

    @property
    def token_ids_diff(self) -> list[int]:
        """The tokens since the response before."""
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[dict[int, Logprob]]:
        """The log-probs since the response before."""
        return self.logprobs[self._last_logprobs_len :]


class GenerationResult:
    """A request that runs: wait for it, or iterate over its responses; each gives this object again, grown.

    Args:
        client_id: By which it is known.
        sampling_params: What it asked for.
        streaming: Whether there is a response each round, or one at the end.
        abort: Asks the executor to drop it.
        pump: Runs the loop up to the next response, where nothing else does.
        tokenizer: Makes text of its tokens.
    """

    def __init__(
        self,
        client_id: int,
        sampling_params: SamplingParams,
        *,
        streaming: bool,
        abort: Callable[[int], None],
        pump: Callable[[], None],
        tokenizer: Any,
    ) -> None:
        self.request_id = client_id
        self.outputs = [CompletionOutput(i) for i in range(sampling_params.n)]
        self.context_logits: Any = None
        self.decoding_iter = 0
        self.cached_tokens = 0
        self.avg_decoded_tokens_per_iter: float | None = None
        self.metrics_dict: dict[str, float] = {}
        self._sampling_params = sampling_params
        self._streaming = streaming
        self._abort = abort
        self._pump = pump
        self._tokenizer = tokenizer
        self._open = sampling_params.n
        self._aborted = False
        self._queue: queue.Queue[LlmResponse | BaseException] = queue.Queue()
        # Only who has a loop running here and now can wait for it in a loop.
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None
        self._aqueue: asyncio.Queue[LlmResponse | BaseException] = asyncio.Queue()

    @property
    def finished(self) -> bool:
        """Whether all of its sequences have ended."""
        return self._open <= 0

    def abort(self) -> None:
        """Ask to drop it; the tokens of the round that runs are still given."""
        self._aborted = True
        self._abort(self.request_id)

    def aborted(self) -> bool:
        """Whether that was asked."""
        return self._aborted

    def put(self, response: LlmResponse | BaseException) -> None:
        """Take a response from the executor; from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: whoever asked has gone
                self._loop.call_soon_threadsafe(self._aqueue.put_nowait, response)
        self._queue.put(response)

    def result(self, timeout: float | None = None) -> GenerationResult:
        """Wait until it has ended."""
        while not self.finished:
            self._step(timeout)
        return self

    async def aresult(self) -> GenerationResult:
        """Wait until it has ended."""
        while not self.finished:
            await self._astep()
        return self

    def __await__(self) -> Generator[Any, None, GenerationResult]:
        return self.aresult().__await__()

    def __iter__(self) -> GenerationResult:
        return self

    def __next__(self) -> GenerationResult:
        if self.finished:
            raise StopIteration
        self._step(None)
        return self

    def __aiter__(self) -> GenerationResult:
        return self

    async def __anext__(self) -> GenerationResult:
        if self.finished:
            raise StopAsyncIteration
        await self._astep()
        return self

    def _step(self, timeout: float | None) -> None:
        while not current().threaded and self._queue.empty():
            self._pump()
        self._handle(self._queue.get(timeout=timeout))

    async def _astep(self) -> None:
        assert self._loop is not None, "no event loop was running where the request was sent"
        while not current().threaded and self._aqueue.empty():
            self._pump()
            await asyncio.sleep(0)
        self._handle(await self._aqueue.get())

    def _handle(self, response: LlmResponse | BaseException) -> None:
        if isinstance(response, BaseException):
            self._open = 0
            raise response
        if response.has_error():
            self._open = 0
            raise RequestError(response.error_msg)
        result = response.result
        assert result is not None
        self.decoding_iter = result.decoding_iter
        self.avg_decoded_tokens_per_iter = result.avg_decoded_tokens_per_iter
        self.context_logits = result.context_logits
        output = self.outputs[result.sequence_index]
        self._grow(output, result)
        self._open -= result.is_final
        self._detokenise(output)

    def _grow(self, output: CompletionOutput, result: Any) -> None:
        output._last_token_ids_len = len(output.token_ids)
        output._last_logprobs_len = len(output.logprobs)
        output._last_text_len = len(output.text)
        output.token_ids = [*output.token_ids, *result.output_token_ids[0]]
        if result.log_probs is not None:
            output.logprobs = result.log_probs[0][: len(output.token_ids)]
            output.cumulative_logprob = result.cum_log_probs[0]
        if result.generation_logits is not None:
            output.generation_logits = result.generation_logits[0]
        reason = result.finish_reasons[0]
        if not result.is_final:
            return
        output.finish_reason = _NAMES.get(reason)
        if reason is FinishReason.STOP_WORDS:
            self._cut_stop_word(output)

    def _cut_stop_word(self, output: CompletionOutput) -> None:
        for name, word in self._sampling_params._get_stop_reasons_and_words():
            if output.token_ids[-len(word) :] == word:
                output.stop_reason = name
                if not self._sampling_params.include_stop_str_in_output:
                    output.token_ids = output.token_ids[: -len(word)]
                return

    def _detokenise(self, output: CompletionOutput) -> None:
        """The text; a stop string that appears in it across tokens cuts it, and ends the request here at once."""
        params = self._sampling_params
        if self._tokenizer is None or not params.detokenize:
            return
        output.text = self._tokenizer.decode(output.token_ids, skip_special_tokens=params.skip_special_tokens)
        for word in [params.stop] if isinstance(params.stop, str) else params.stop or ():
            place = output.text.find(word)
            if place >= 0:
                output.text = output.text[: place + len(word) * params.include_stop_str_in_output]
                output.finish_reason, output.stop_reason = "stop", word
                if not self.finished:
                    self.abort()
                    self._open = 0
