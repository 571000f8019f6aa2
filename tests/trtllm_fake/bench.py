"""An executor that a test steps by hand, round by round."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.trtllm_fake.stage import current, register

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.trtllm_fake.models import FakeModel

TARGET, DRAFTER = "target", "drafter"
ROUNDS_OF_A_HANG = 1000


class Bench:
    """What ``create_py_executor`` makes of two models, and what its requests have given; for ``threaded=False``.

    Args:
        target: Scores.
        drafter: Proposes; None decodes with the target alone.
        draft_length: K.
        chain: Draft in one call; else step by step through the sampler.
        llm_args: Further arguments of ``TorchLlmArgs``; the window is the target's.

    Attributes:
        executor: The ``PyExecutor``.
        tokens: What each request has given, by its id and for each of its sequences; ids begin at 1.
        chunks: How many tokens came in each response.
        reasons: Why its sequences ended, by name, in that order.
        errors: What it failed with.
        results: Its last ``LlmResult``.
    """

    def __init__(
        self,
        target: FakeModel,
        drafter: FakeModel | None = None,
        *,
        draft_length: int = 3,
        chain: bool = True,
        **llm_args: Any,
    ) -> None:
        from tensorrt_llm._torch.pyexecutor import py_executor_creator
        from tensorrt_llm.llmapi.llm_args import DraftTargetDecodingConfig, KvCacheConfig, TorchLlmArgs

        assert not current().threaded, "a bench is stepped: use installed(..., threaded=False)"
        register(TARGET, target)
        if drafter is not None:
            register(DRAFTER, drafter)
            name = "speculative_model" if current().shape.since_1_2_0 else "speculative_model_dir"
            config = DraftTargetDecodingConfig(max_draft_len=draft_length, **{name: DRAFTER})
            config._allow_greedy_draft_tokens = chain
            llm_args.setdefault("speculative_config", config)
        llm_args.setdefault("disable_overlap_scheduler", True)
        llm_args.setdefault("kv_cache_config", KvCacheConfig(max_tokens=100_000))
        llm_args.setdefault("max_batch_size", 8)
        self.args = TorchLlmArgs(model=TARGET, **llm_args)
        self.executor = py_executor_creator.create_py_executor(self.args, checkpoint_dir=TARGET)
        self.tokens: dict[int, list[list[int]]] = defaultdict(lambda: [[]])
        self.chunks: dict[int, list[int]] = defaultdict(list)
        self.reasons: dict[int, list[str]] = {}
        self.errors: dict[int, str] = {}
        self.results: dict[int, Any] = {}
        self._open: dict[int, int] = {}

    @property
    def sampler(self) -> Any:
        """The sampler that is used."""
        return self.executor.sampler

    def add(
        self,
        prompt: Sequence[int],
        *,
        max_tokens: int = 32,
        streaming: bool = True,
        end_id: int | None = -1,
        stop_words: Sequence[Sequence[int]] = (),
        carrier: Any = None,
        logprobs: int | None = None,
        embedding_bias: Any = None,
        client_id: int | None = None,
        return_context_logits: bool = False,
        return_generation_logits: bool = False,
        attributes: dict[str, Any] | None = None,
        **sampling: Any,
    ) -> int:
        """Queue a request; returns its id.

        Args:
            prompt: Its tokens.
            max_tokens: Most that it gives.
            streaming: Whether a response comes each round, or one at the end.
            end_id: A token that ends it.
            stop_words: Tokens that end it, one behind the other.
            carrier: A logits processor, or several.
            logprobs: How many of the likeliest are told of for each token.
            embedding_bias: Added to every row, ``[1, V]``.
            client_id: By which its sender knows it; else its id.
            return_context_logits: Whether the prompt's logits come with it.
            return_generation_logits: Whether logits of the output do.
            attributes: Further ones, for the executor's request.
            sampling: ``temperature``, ``top_k``, ``top_p``, ``seed``, ``min_tokens``, ...
        """
        from tensorrt_llm.bindings import executor

        request = executor.Request(
            input_token_ids=list(prompt),
            max_tokens=max_tokens,
            streaming=streaming,
            sampling_config=executor.SamplingConfig(**sampling),
            output_config=executor.OutputConfig(
                return_log_probs=logprobs is not None,
                return_context_logits=return_context_logits,
                return_generation_logits=return_generation_logits,
            ),
            end_id=end_id,
            stop_words=[list(word) for word in stop_words],
            embedding_bias=embedding_bias,
            client_id=client_id,
        )
        further: dict[str, Any] = {"py_num_logprobs": logprobs or 0, **(attributes or {})}
        if carrier is not None:
            further["py_logits_post_processors"] = carrier if isinstance(carrier, list) else [carrier]
        for name, value in further.items():
            setattr(request, name, value)
        request_id: int = self.executor.enqueue_request(request)
        self._open[request_id] = sampling.get("num_return_sequences") or 1
        return request_id

    def cancel(self, request_id: int) -> None:
        """Ask to drop a request, after the next round."""
        self.executor.cancel_request(request_id)

    def step(self, rounds: int = 1) -> None:
        """Run rounds, and take what they gave."""
        for _ in range(rounds):
            self.executor.step()
            for request_id in list(self.executor.responses):
                for response in self.executor.responses.pop(request_id):
                    self._take(request_id, response)

    def run(self) -> None:
        """Until everything has ended."""
        for _ in range(ROUNDS_OF_A_HANG):
            if not any(self._open.values()):
                return
            self.step()
        raise RuntimeError(f"requests {[i for i, n in self._open.items() if n]} do not end")

    def output(self, request_id: int) -> list[int]:
        """All tokens of a request's first sequence."""
        return self.tokens[request_id][0]

    def request(self, request_id: int) -> Any:
        """A request that runs, as the loop has it."""
        return next(r for r in self.executor.active_requests if r.py_request_id == request_id)

    def _take(self, request_id: int, response: Any) -> None:
        if response.has_error():
            self.errors[request_id] = response.error_msg
            self._open[request_id] = 0
            return
        result = response.result
        self.results[request_id] = result
        sequences = self.tokens[request_id]
        sequences.extend([] for _ in range(result.sequence_index + 1 - len(sequences)))
        sequences[result.sequence_index] += result.output_token_ids[0]
        self.chunks[request_id].append(len(result.output_token_ids[0]))
        if result.is_final:
            self.reasons.setdefault(request_id, []).append(result.finish_reasons[0].name)
            self._open[request_id] -= 1
