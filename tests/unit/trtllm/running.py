"""`CascadeLLM` over the fake: its LLM API and executor thread, and our sampler in it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.stop import StopConditions
from spec_cascade.engines.admission import Admission
from spec_cascade.engines.protocol import EngineLimits
from spec_cascade.engines.tensorrt_llm.delivery import deliver
from spec_cascade.engines.tensorrt_llm.llm import CascadeLLM
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from spec_cascade.rules import parse_rule
from tests.tiny import VOCAB, noisy, tiny_llama
from tests.trtllm_fake import FakeModel, hugging_face, installed, register

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from spec_cascade.decoding.request import RoundOutput

K = 3
WINDOW = 128
TARGET = tiny_llama()
DRAFTER = noisy(TARGET, 0.1)


def cut_at(word: tuple[int, ...]) -> Any:
    """A stop string of one character a token: where these tokens stand, and how many new ones to keep."""

    def cut(ids: Sequence[int], new: int, strings: tuple[str, ...], min_tokens: int) -> int | None:
        for end in range(len(ids) - new, len(ids)):
            if tuple(ids[end + 1 - len(word) : end + 1]) == word and end >= min_tokens:
                return end + 1 - (len(ids) - new)
        return None

    return cut


@contextmanager
def running(
    shape: str,
    *,
    target: FakeModel | None = None,
    eos: tuple[int, ...] = (),
    cut: Callable[..., int | None] | None = None,
    bad_word_ids: Callable[[str], list[tuple[int, ...]]] | None = None,
    batch: int = 8,
    queue: int = 16,
) -> Iterator[CascadeLLM]:
    """The engine over the fake, decoding in a thread of the fake's."""
    bound = "spec_cascade.engines.tensorrt_llm.sampler"
    sys.modules.pop(bound, None)
    limits = EngineLimits(
        max_batch_size=batch,
        max_seq_len=WINDOW,
        max_draft_length=K,
        max_queue_size=queue,
        vocab_size=VOCAB,
        default_rule=parse_rule("token_v3:alpha=0.5"),
        default_draft_length=K,
    )
    engines: list[CascadeLLM] = []
    with installed(shape):
        register("target", target or hugging_face(TARGET, max_seq_len=WINDOW))
        register("drafter", hugging_face(DRAFTER, max_seq_len=WINDOW))
        settings = SamplerSettings(draft_length=K, vocab_size=VOCAB)
        delivery = deliver(settings, world_size=1, receive=lambda reports: engines[0].receive(reports))
        from tensorrt_llm import LLM
        from tensorrt_llm import SamplingParams as TheirParams
        from tensorrt_llm.llmapi import DraftTargetDecodingConfig, KvCacheConfig

        llm = LLM(
            "target",
            speculative_config=DraftTargetDecodingConfig(max_draft_len=K, speculative_model="drafter"),
            disable_overlap_scheduler=True,
            max_batch_size=batch,
            max_seq_len=WINDOW,
            kv_cache_config=KvCacheConfig(max_tokens=100_000),
        )
        delivery.confirm()
        admission = Admission(limits, StopConditions(frozenset(eos), WINDOW, cut), "argmax", bad_word_ids)

        def close() -> None:
            llm.shutdown()
            delivery.close()

        engines.append(CascadeLLM(llm, admission, TheirParams, end_ids=eos, close=close))
        try:
            yield engines[0]
        finally:
            engines[0].close()
            sys.modules.pop(bound, None)


def tokens(outputs: list[RoundOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def ask(prompt: tuple[int, ...] = (5, 6, 7), **fields: Any) -> GenerationRequest:
    sampling = {name: fields.pop(name) for name in list(fields) if name in SamplingParams.__dataclass_fields__}
    return GenerationRequest(prompt_ids=prompt, sampling=SamplingParams(**{"max_tokens": 24, **sampling}), **fields)


@contextmanager
def held(model: FakeModel, *, beyond: int = 0) -> Iterator[tuple[FakeModel, Event]]:
    """A model that goes on when told, with texts of more than so many tokens."""
    go = Event()

    def rows(token_ids: Sequence[int]) -> Any:
        assert len(token_ids) <= beyond or go.wait(60)
        return model.rows(token_ids)

    try:
        yield FakeModel(rows=rows, vocab_size=model.vocab_size, max_seq_len=model.max_seq_len), go
    finally:
        go.set()
