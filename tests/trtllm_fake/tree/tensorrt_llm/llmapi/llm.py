"""An LLM, and what it gives."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

from tensorrt_llm.executor.result import GenerationResult
from tensorrt_llm.executor.worker import GenerationExecutorWorker, GenerationRequest
from tensorrt_llm.llmapi.llm_args import TorchLlmArgs
from tensorrt_llm.sampling_params import SamplingParams
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence


class RequestOutput(GenerationResult):
    """What a request gives; not made by hand."""

    prompt: str | None
    prompt_token_ids: list[int]

    def __init__(self) -> None:
        raise RuntimeError("RequestOutput is made by LLM.generate and LLM.generate_async")

    @classmethod
    def _from_generation_result(
        cls, generation_result: GenerationResult, prompt: str | None, prompt_token_ids: list[int]
    ) -> RequestOutput:
        output = cls.__new__(cls)
        output.__dict__ = generation_result.__dict__
        output.prompt = prompt
        output.prompt_token_ids = prompt_token_ids
        return output


class LLM:
    """Two models, an executor, requests."""

    def __init__(
        self,
        model: str,
        tokenizer: Any = None,
        tokenizer_mode: str = "auto",
        skip_tokenizer_init: bool = False,
        trust_remote_code: bool = False,
        tensor_parallel_size: int = 1,
        dtype: str = "auto",
        revision: str | None = None,
        tokenizer_revision: str | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("_mpi_session", None)
        for name in kwargs:
            if name not in TorchLlmArgs.model_fields:
                raise ValueError(f"LLM got invalid argument: {name}")
        self.args = TorchLlmArgs(
            model=model,
            tokenizer=tokenizer,
            tokenizer_mode=tokenizer_mode,
            skip_tokenizer_init=skip_tokenizer_init,
            trust_remote_code=trust_remote_code,
            tensor_parallel_size=tensor_parallel_size,
            dtype=dtype,
            revision=revision,
            tokenizer_revision=tokenizer_revision,
            **kwargs,
        )
        self.tokenizer = None if skip_tokenizer_init else tokenizer
        self._ids = count(1)
        self._executor: GenerationExecutorWorker | None = GenerationExecutorWorker(self.args, self.tokenizer)
        current().at_leave.append(self.shutdown)

    def generate(
        self,
        inputs: Any,
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        use_tqdm: bool = True,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput | list[RequestOutput]:
        """Generate for one prompt or several, and wait."""
        single = isinstance(inputs, (str, dict)) or (isinstance(inputs, list) and isinstance(inputs[0], int))
        prompts = [inputs] if single else inputs
        given = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        outputs = [self.generate_async(prompt, params) for prompt, params in zip(prompts, given, strict=True)]
        for output in outputs:
            output.result()
        return outputs[0] if single else outputs

    def generate_async(
        self,
        inputs: Any,
        sampling_params: SamplingParams | None = None,
        lora_request: Any = None,
        prompt_adapter_request: Any = None,
        streaming: bool = False,
        kv_cache_retention_config: Any = None,
        disaggregated_params: Any = None,
        _postproc_params: Any = None,
        scheduling_params: Any = None,
        cache_salt: str | None = None,
    ) -> RequestOutput:
        """Generate, and do not wait."""
        if self._executor is None:
            raise RuntimeError("LLM is shutting down")
        if lora_request is not None:
            raise TypeError(f"lora_request should be a LoRARequest, got {type(lora_request)}")
        params = self._prepare_sampling_params(sampling_params)
        prompt, token_ids = self._prompt(inputs)
        self._check_arguments(len(token_ids))
        executor = self._executor
        result = GenerationResult(
            next(self._ids),
            params,
            streaming=streaming,
            abort=executor.abort_request,
            pump=executor.dispatch,
            tokenizer=self.tokenizer,
        )
        request = GenerationRequest(
            id=result.request_id, prompt_token_ids=token_ids, sampling_params=params, streaming=streaming
        )
        executor.submit(request, result)
        return RequestOutput._from_generation_result(result, prompt, token_ids)

    def shutdown(self) -> None:
        """End what is left, then the executor."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *args: object) -> None:
        self.shutdown()

    def _prompt(self, inputs: Any) -> tuple[str | None, list[int]]:
        if isinstance(inputs, dict):
            inputs = inputs["prompt_token_ids"] if "prompt_token_ids" in inputs else inputs["prompt"]
        if isinstance(inputs, str):
            if self.tokenizer is None:
                raise ValueError("tokenizer is required to tokenize string prompts")
            return inputs, list(self.tokenizer.encode(inputs))
        if not isinstance(inputs, list):
            raise TypeError(f"The inputs must be type str or list of int, but got {type(inputs)}")
        return None, list(inputs)

    def _prepare_sampling_params(self, sampling_params: SamplingParams | None) -> SamplingParams:
        params = SamplingParams() if sampling_params is None else sampling_params
        if not isinstance(params, SamplingParams):
            raise TypeError(f"The sampling_params must be type SamplingParams or None, but got {type(sampling_params)}")
        if params.end_id is None or params.stop is not None:
            if self.tokenizer is None:
                raise ValueError("tokenizer is required to reset end_id if it is None, or set end_id explicitly")
            params._setup(self.tokenizer)
        params._stream_interval = self.args.stream_interval
        params.return_perf_metrics = params.return_perf_metrics or self.args.return_perf_metrics
        return params

    def _check_arguments(self, prompt_len: int) -> None:
        max_num_tokens = self.args.get_runtime_sizes()[1]
        if not self.args.enable_chunked_prefill and prompt_len > max_num_tokens:
            raise ValueError(f"The prompt length ({prompt_len}) should not exceed max_num_tokens ({max_num_tokens})")
