"""The built-in prompts: questions, and tasks whose answer repeats the prompt, where drafts are easy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.bench.samples import Task
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from spec_cascade.decoding.tokenizer import Tokenizer

PROMPTS = (
    "Why is the sky blue? Answer in a few sentences.",
    "Repeat this list word for word: apple, pear, plum, cherry, fig, lemon, orange, grape, melon, quince.",
    "Write a short story about a lighthouse keeper who finds a letter on the beach.",
    "Copy this text and correct nothing: The train to the coast leaves at nine and comes back at six every day.",
    "How do I cook rice without a lid?",
    "Write a Python function that returns the n-th Fibonacci number, then the same function with a cache.",
    "Name three rivers in Europe and say one thing about each.",
    'Turn this JSON into a list of lines "name: age": {"Ada": 36, "Alan": 41, "Grace": 85, "Edsger": 72}',
    "Explain to a child what a shadow is.",
    "Say the following sentence five times: A journey of a thousand miles begins with a single step.",
    "What is the difference between weather and climate?",
    "Write the numbers from one to thirty as words, separated by commas.",
    "Give me a polite e-mail that moves a meeting from Monday to Wednesday.",
    "Write this table again with the rows sorted by city: Oslo 5, Rome 21, Cairo 30, Lima 19, Delhi 33.",
    "Describe how bread is made, from the field to the table.",
    "Translate word by word, and repeat each English word: the house, the tree, the water, the bread, the friend.",
)


def make_tasks(tokenizer: Tokenizer, count: int, *, tokens: int, temperature: float, max_seq_len: int) -> list[Task]:
    """The first ``count`` prompts, from the start again where there are fewer, as the model's chat template has them.

    Every task has a seed of its own, the same in every run, and goes on for exactly ``tokens`` tokens.

    Raises:
        ConfigError: A prompt and ``tokens`` do not fit into ``max_seq_len``.
    """
    tasks = []
    for prompt in range(count):
        ids = prompt_ids(tokenizer, PROMPTS[prompt % len(PROMPTS)])
        if len(ids) + tokens > max_seq_len:
            longest = max_seq_len - len(ids)
            raise ConfigError("--tokens", tokens, f"at most {longest}: max_seq_len is {max_seq_len}, with the prompt")
        sampling = SamplingParams(temperature=temperature, seed=prompt, max_tokens=tokens, ignore_eos=True)
        tasks.append(Task(prompt=prompt, prompt_ids=ids, sampling=sampling))
    return tasks


def prompt_ids(tokenizer: Tokenizer, text: str) -> tuple[int, ...]:
    """A prompt as the model's chat template has it."""
    try:
        chat = tokenizer.render_chat([{"role": "user", "content": text}])
    except ConfigError:
        # A model without a chat template continues the text.
        return tuple(tokenizer.encode_prompt(text))
    return tuple(tokenizer.encode(chat, add_special_tokens=False))
