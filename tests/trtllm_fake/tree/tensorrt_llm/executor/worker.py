"""Brings requests to the executor and responses back; the fake's worker lives in its caller's process."""

from __future__ import annotations

import os
import pickle
import threading
from dataclasses import dataclass
from typing import Any

from tensorrt_llm.bindings.executor import Request
from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.logger import logger
from tensorrt_llm.sampling_params import SamplingParams
from tests.trtllm_fake.stage import current

SHAPE = current().shape


def enable_worker_single_process_for_tp1() -> bool:
    """Whether the caller asked for a worker in its own process."""
    return os.environ.get("TLLM_WORKER_USE_SINGLE_PROCESS") == "1"


@dataclass(kw_only=True)
class GenerationRequest:
    """What is sent to the worker."""

    id: int
    prompt_token_ids: list[int]
    sampling_params: SamplingParams
    streaming: bool


class GenerationExecutorWorker:
    """Runs an executor. Where the real one would be another process, all that is handed to it is pickled on the way."""

    def __init__(self, llm_args: Any, tokenizer: Any = None) -> None:
        self.pickles = llm_args.parallel_config.is_multi_gpu or not (
            llm_args.gather_generation_logits or enable_worker_single_process_for_tp1()
        )
        self._results: dict[int, GenerationResult] = {}
        self._running: dict[int, int] = {}
        self._request_ids: dict[int, int] = {}
        self._lock = threading.Lock()
        self._closed = False
        self.engine = self.setup_engine(self._sent(llm_args), tokenizer)
        self._thread: threading.Thread | None = None
        if current().threaded:
            self._thread = threading.Thread(target=self._dispatch_all, daemon=True)
            self._thread.start()

    def setup_engine(self, llm_args: Any, tokenizer: Any) -> Any:
        """Make the executor; its maker is imported here, and not before."""
        from tensorrt_llm._torch.pyexecutor.py_executor_creator import create_py_executor

        return create_py_executor(llm_args=llm_args, checkpoint_dir=str(llm_args.model), tokenizer=tokenizer)

    def submit(self, request: GenerationRequest, result: GenerationResult) -> None:
        """Send a request."""
        with self._lock:
            self._results[request.id] = result
            self._running[request.id] = request.sampling_params.n
        self._enqueue_request(self._sent(request))

    def abort_request(self, client_id: int) -> None:
        """Ask to drop a request; nothing happens where it is not known any more."""
        request_id = self._request_ids.get(client_id)
        if request_id is None or not self._running[client_id]:
            logger.warning("Request of client_id %s is finished, cannot abort it.", client_id)
        else:
            self.engine.cancel_request(request_id)

    def dispatch(self, timeout: float | None = None) -> None:
        """Hand out the next responses; where nothing runs the loop, run it up to them."""
        try:
            responses = self.engine.await_responses(timeout=timeout)
        except BaseException as error:
            with self._lock:
                waiting, self._results = list(self._results.values()), {}
            for result in waiting:
                result.put(error)
            self._closed = True
            return
        for response in responses:
            with self._lock:
                result = self._results.get(response.client_id)
                self._running[response.client_id] -= response.has_error() or response.result.is_final
                if self._running[response.client_id] == 0:
                    del self._results[response.client_id]
            if result is not None:
                result.put(response)

    def shutdown(self) -> None:
        """End what is left, then the worker."""
        self.engine.shutdown()
        self._closed = True
        if self._thread is not None:
            self._thread.join()

    def _dispatch_all(self) -> None:
        while not self._closed:
            self.dispatch(timeout=0.05)

    def _sent(self, thing: Any) -> Any:
        return pickle.loads(pickle.dumps(thing)) if self.pickles else thing

    def _enqueue_request(self, request: GenerationRequest) -> None:
        params = request.sampling_params
        room = self.engine.model_engine.max_seq_len - len(request.prompt_token_ids)
        executor_request = Request(
            client_id=request.id,
            input_token_ids=request.prompt_token_ids,
            max_tokens=min(params.max_tokens, room),
            streaming=request.streaming,
            sampling_config=params._get_sampling_config(),
            output_config=params._get_output_config(),
            end_id=-1 if params.ignore_eos else params.end_id,
            pad_id=params.pad_id,
            stop_words=[] if params.ignore_eos else params._get_stop_words(),
            embedding_bias=params.embedding_bias,
            guided_decoding_params=params.guided_decoding,
        )
        executor_request.py_num_logprobs = params.logprobs  # type: ignore[attr-defined]
        if SHAPE.since_1_3_0:
            executor_request.py_logprobs_mode = params.logprobs_mode  # type: ignore[attr-defined]
        if params.logits_processor:
            given = params.logits_processor
            executor_request.py_logits_post_processors = given if isinstance(given, list) else [given]  # type: ignore[attr-defined]
        self._request_ids[request.id] = self.engine.enqueue_request(executor_request)
