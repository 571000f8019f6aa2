"""Greedy `strict` output is the target's own greedy output, token for token."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import AutoModelForCausalLM

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.pytorch.open import open_pytorch
from spec_cascade.rules import parse_rule
from tests.tiny import VOCAB, noisy, tiny_engine, tiny_llama
from tests.unit.engines.greedy import ends_in_tie, generated

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from spec_cascade.engines.protocol import Engine

NEW_TOKENS = 40
NEW_TOKENS_OF_SMOLLM2 = 16
STRICT = parse_rule("strict")
QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Explain photosynthesis to a child.",
    "List three uses of copper.",
    "Translate 'good morning' into Spanish.",
    "Why is the sky blue?",
    "Give me a recipe for pancakes.",
    "What is 17 times 23?",
    "Who wrote Hamlet?",
    "Summarise the plot of Cinderella.",
    "Name five planets.",
    "How does a bicycle stay upright?",
    "Write a Python function that reverses a string.",
    "What causes tides?",
    "Describe a sunset in one sentence.",
    "What is the boiling point of water?",
    "Tell me a joke about cats.",
    "How do I tie a tie?",
    "What is an adjective?",
    "Give two synonyms of happy.",
]


@cache
def target() -> PreTrainedModel:
    return tiny_llama()


def random_prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    lengths = [1 + (5 * i) % 37 for i in range(20)]
    return [torch.randint(0, VOCAB, (n,), generator=generator).tolist() for n in lengths]


@cache
def expected_of_tiny() -> list[list[int]]:
    return [generated(target(), prompt, NEW_TOKENS) for prompt in random_prompts()]


def outputs(engine: Engine, prompts: list[list[int]], max_tokens: int) -> list[list[int]]:
    sampling = SamplingParams(temperature=0, max_tokens=max_tokens)
    runs = [engine.submit(GenerationRequest(prompt_ids=tuple(p), sampling=sampling, rule=STRICT)) for p in prompts]
    return [[t for chunk in run for t in chunk.token_ids] for run in runs]


@pytest.mark.parametrize("drafter", ["noisy", "equal", "trimmed", "lookup", "none"])
@pytest.mark.parametrize("batch", [1, 8])
def test_strict_greedy_of_tiny_models_is_the_targets_own(drafter: str, batch: int) -> None:
    small = noisy(target(), 0.05)
    drafters = {"noisy": small, "equal": target(), "trimmed": small, "lookup": "lookup", "none": None}
    known = range(0, VOCAB, 2) if drafter == "trimmed" else None
    engine = tiny_engine(target(), drafters[drafter], max_batch_size=batch, known=known)
    try:
        found = outputs(engine, random_prompts(), NEW_TOKENS)
        accepted = engine.statistics().totals.num_accepted_draft_tokens
    finally:
        engine.close()
    assert [len(output) for output in found] == [NEW_TOKENS] * 20
    compared = zip(random_prompts(), found, expected_of_tiny(), strict=True)
    ties = sum(ends_in_tie(target(), *row) for row in compared)
    assert ties <= 1
    assert (accepted > 0) == (drafter != "none")


def test_strict_greedy_of_smollm2_is_the_targets_own(demo_engine: Path, record_property: pytest.RecordProperty) -> None:
    tokenizer = Tokenizer.load(demo_engine / "tokenizer")
    prompts = [
        tokenizer.encode_prompt(tokenizer.render_chat([{"role": "user", "content": question}]))
        for question in QUESTIONS
    ]
    model = AutoModelForCausalLM.from_pretrained(demo_engine / "target", dtype=torch.float32)
    expected = [generated(model, prompt, NEW_TOKENS_OF_SMOLLM2) for prompt in prompts]
    engine = open_pytorch(demo_engine, Manifest.read(demo_engine), dtype=torch.float32)
    try:
        one_at_a_time = [outputs(engine, [prompt], NEW_TOKENS_OF_SMOLLM2)[0] for prompt in prompts]
        together = outputs(engine, prompts, NEW_TOKENS_OF_SMOLLM2)
        accepted = engine.statistics().totals.num_accepted_draft_tokens
    finally:
        engine.close()
    for batch, found in ((1, one_at_a_time), (8, together)):
        ties = sum(ends_in_tie(model, *row) for row in zip(prompts, found, expected, strict=True))
        record_property(f"ties at batch {batch}", ties)
        assert ties <= 2
    assert accepted > 0
