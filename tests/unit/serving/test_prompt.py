"""From text or a conversation to the prompt's tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.errors import ConfigError
from spec_cascade.serving.prompt import make_prompt

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|answer|>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|user|>", "<|system|>", "<|answer|>"]
    raw.train_from_iterator(
        ["the cat sat"], trainers.BpeTrainer(initial_alphabet=alphabet, special_tokens=special, show_progress=False)
    )
    return Tokenizer(raw, {"chat_template": TEMPLATE})


def test_text_is_a_raw_prompt(tokenizer: Tokenizer) -> None:
    prompt = make_prompt({"text_input": "the cat 😀"}, tokenizer, 99)
    assert tokenizer.decode(prompt.token_ids) == prompt.text == "the cat 😀"
    assert not prompt.is_echoed


def test_text_becomes_one_user_message_where_the_chat_template_is_asked_for(tokenizer: Tokenizer) -> None:
    prompt = make_prompt({"text_input": "hi", "apply_chat_template": True}, tokenizer, 99)
    assert prompt.text == "<|user|>hi<|answer|>"
    assert prompt.token_ids[0] == 0  # the special token, not its characters


def test_messages_are_rendered(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    prompt = make_prompt({"messages": json.dumps(messages)}, tokenizer, 99)
    assert prompt.text == "<|system|>be brief<|user|>why?<|answer|>"


def test_the_prompt_is_echoed_where_the_input_is_not_excluded(tokenizer: Tokenizer) -> None:
    assert make_prompt({"text_input": "x", "exclude_input_in_output": False}, tokenizer, 9).is_echoed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "text_input = None .*messages instead"),
        ({"text_input": "a", "messages": "[]"}, "text_input = .*one of the two"),
        ({"text_input": ""}, "text_input = '' .*at least one token"),
        ({"text_input": "the " * 60}, r"text_input = '\d+ tokens' .*at most 50 tokens"),
        ({"text_input": "a" * 10**6}, "text_input = '1000000 characters' .*at most 50 tokens"),
        ({"messages": "hi"}, "messages = 'hi' .*JSON"),
        ({"messages": "{}"}, "messages = {} .*a list"),
        ({"messages": "[]"}, r"messages = \[\] .*at least one"),
        ({"messages": "[" * 3000}, "messages = .*JSON"),
        ({"messages": "[" * 100_000}, "messages = '100000 characters' .*at most 50 tokens"),
        ({"messages": "[3]"}, r"messages\[0\] = 3 .*role and content"),
        ({"messages": '[{"role": "user"}]'}, r"messages\[0\] = .*role and content"),
        ({"messages": '[{"role": "user", "content": 3}]'}, r"messages\[0\] = .*strings"),
        ({"messages": '[{"role": "user", "content": "", "contents": ""}]'}, r"messages\[0\].contents .*'content'"),
        ({"messages": r'[{"role": "user", "content": "\ud800"}]'}, r"messages\[0\].content .*surrogates"),
        ({"messages": r'[{"role": "user", "content": "\u0000"}]'}, r"messages\[0\].content .*NUL"),
    ],
)
def test_a_prompt_that_is_not_allowed_is_an_error_that_names_its_field(
    tokenizer: Tokenizer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_prompt(fields, tokenizer, 50)


def test_a_number_that_python_does_not_read_is_the_messages_error(tokenizer: Tokenizer) -> None:
    with pytest.raises(ConfigError, match=r"^messages = "):
        make_prompt({"messages": "9" * 5000}, tokenizer, 99)


def test_a_model_without_a_chat_template_says_so() -> None:
    raw = RawTokenizer(models.WordLevel({"hi": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(ConfigError, match="no chat template"):
        make_prompt({"text_input": "hi", "apply_chat_template": True}, Tokenizer(raw), 9)
