"""The real `CascadeSampler` in the fake's loop gives token for token what the embedded engine gives.

Both engines run the same small models, under the same seeds; TensorRT-LLM's own parts around the sampler are those of
the fake: its batches, slots, padding, drafting loops and rewinds, and its checks of the KV cache after every round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from spec_cascade.rules import parse_rule
from tests.tiny import VOCAB, noisy, tiny_engine, tiny_llama
from tests.trtllm_fake import hugging_face
from tests.unit.trtllm.played import MODES, Played

if TYPE_CHECKING:
    pass


K = 3
WINDOW = 160
TARGET = tiny_llama()
DRAFTER = noisy(TARGET, 0.1)
# Of two tokens and more: for a prompt of one the embedded engine drafts in the first round, TensorRT-LLM never does.
PROMPTS = [(5, 6, 7), (1, 2), tuple(range(10, 45)), (3, 90), (8, 8, 8, 8)]
RULES = {
    "argmax": ["strict", "token_v3:alpha=0.8", "chow:alpha=0.3", "token_v2:alpha=0.5"],
    "sampled": ["strict", "token_v3:alpha=0.8", "chow:alpha=0.3", "opt:alpha=0.5"],
}


def requests(mode: str) -> list[GenerationRequest]:
    """Different prompts, rules, temperatures, truncations and draft lengths, all of which live at a time."""
    shapes: list[dict[str, Any]] = [
        {"temperature": 1.0},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 20},
        {"temperature": 1.3, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.02, "repetition_penalty": 1.2, "presence_penalty": 0.3},
    ]
    found = []
    for i, prompt in enumerate(PROMPTS):
        for j, rule in enumerate(RULES[mode]):
            sampling = SamplingParams(seed=100 * i + j, max_tokens=9 + 4 * i + j, **shapes[(i + j) % len(shapes)])
            if mode == "argmax" and sampling.repetition_penalty != 1:
                # The chain loop takes the argmax of raw rows, the embedded engine that of penalised ones.
                sampling = SamplingParams(seed=100 * i + j, max_tokens=9 + 4 * i + j)
            found.append(
                GenerationRequest(
                    prompt_ids=prompt,
                    sampling=sampling,
                    rule=parse_rule(rule),
                    draft_length=(K, 0, 1, K, 2)[(i + 2 * j) % 5],
                )
            )
    return found


def embedded(asked: list[GenerationRequest], mode: str) -> list[tuple[list[int], list[int]]]:
    """What the embedded engine says: tokens and who wrote them."""
    engine = tiny_engine(TARGET, DRAFTER, draft_length=K, argmax=mode == "argmax", max_seq_len=WINDOW)
    try:
        generations = [engine.submit(request) for request in asked]
        outputs = [list(generation) for generation in generations]
    finally:
        engine.close()
    return [
        ([t for chunk in chunks for t in chunk.token_ids], [int(s) for chunk in chunks for s in chunk.sources])
        for chunks in outputs
    ]


def ask(played: Played, request: GenerationRequest) -> int:
    """Send a request as serving does: what TensorRT-LLM has no field for travels beside it."""
    sampling = request.sampling
    params = CascadeParams(
        rule=str(request.rule),
        draft_length=request.draft_length,
        seed=sampling.seed,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
    )
    return played.ask(
        request.prompt_ids,
        params,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k or None,
        top_p=sampling.top_p,
    )


@pytest.mark.parametrize("mode", MODES)
def test_a_mixed_batch_is_what_the_embedded_engine_gives(shape: str, mode: str) -> None:
    asked = requests(mode)
    wanted = embedded(asked, mode)
    played = Played(
        hugging_face(TARGET, max_seq_len=WINDOW),
        hugging_face(DRAFTER, max_seq_len=WINDOW),
        mode,
        draft_length=K,
        settings={"vocab_size": VOCAB},
    )
    ids = [ask(played, request) for request in asked]
    # Strangers in the same batches: no drafts judged by us, other tokens by TensorRT-LLM's own generator.
    strangers = [played.bench.add((7, 7, tag), max_tokens=12, temperature=1.0, logprobs=1) for tag in range(3)]
    played.bench.run()
    assert not played.bench.errors
    for request, request_id, (tokens, sources) in zip(asked, ids, wanted, strict=True):
        assert played.output(request_id) == tokens, request
        assert played.sources(request_id)[: len(sources)] == sources
    assert all(len(played.bench.output(stranger)) == 12 for stranger in strangers)
    kept = [source for _, sources in wanted for source in sources].count(0)
    assert kept > 20
