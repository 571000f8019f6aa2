"""From files to a tokenizer, and from words and conversations to tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import pre_tokenizers

from spec_cascade.decoding.tokenizer import Tokenizer, bad_word_sequences
from spec_cascade.errors import ConfigError, EngineError
from tests.unit.decoding.sample_tokenizers import SPECIAL, TOKENIZERS, byte_level, whole_words

if TYPE_CHECKING:
    from pathlib import Path


def test_a_bad_word_is_written_at_the_start_of_a_text_and_after_a_space() -> None:
    tokenizer = TOKENIZERS["byte_level"]
    sequences = bad_word_sequences(tokenizer, "fox")
    assert [tokenizer.decode(ids) for ids in sequences] == ["fox", " fox"]
    assert sequences == bad_word_sequences(tokenizer, "  fox")
    (whole,) = (ids for ids in sequences if len(ids) == 1)  # the corpus made " fox" a token of its own
    assert tokenizer.decode(whole) == " fox"


@pytest.mark.parametrize("word", ["fox", " lazy dog", "naïve", "\n\n", "😀", " ", "<tool>", SPECIAL])
def test_wherever_a_word_stands_after_a_space_or_first_its_tokens_stand_there(word: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]
    first, *later = bad_word_sequences(tokenizer, word)
    assert tuple(tokenizer.encode(word.lstrip(" ") or word, add_special_tokens=False)) == first
    if later:
        text = f"a {word.lstrip(' ')}"
        assert tuple(tokenizer.encode(text, add_special_tokens=False))[-len(later[0]) :] == later[0]


def test_spellings_that_are_the_same_tokens_come_once() -> None:
    raw = whole_words(None)._raw
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    assert bad_word_sequences(Tokenizer(raw), "dog.") == ((raw.token_to_id("dog"), raw.token_to_id(".")),)


def test_a_word_that_the_tokenizer_writes_with_nothing_has_no_sequences() -> None:
    raw = whole_words(None)._raw
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    assert bad_word_sequences(Tokenizer(raw), " ") == ()


def save(tokenizer: Tokenizer, directory: Path, config: dict[str, object]) -> Path:
    tokenizer._raw.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    return directory


def test_a_loaded_tokenizer_renders_its_chat_template(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% generation %}{{ eos_token }}{{ m.role }}: {{ m['content'] | tojson }}\n"
        "{% endgeneration %}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    config = {"chat_template": template, "eos_token": {"content": SPECIAL, "__type": "AddedToken"}}
    tokenizer = Tokenizer.load(save(TOKENIZERS["byte_level"], tmp_path, config))
    messages = [{"role": "user", "content": "<hé>"}]
    assert tokenizer.render_chat(messages) == f'{SPECIAL}user: "<hé>"\nassistant:'


def test_a_refusal_of_the_chat_template_is_an_error_of_the_request(tmp_path: Path) -> None:
    config = {"chat_template": [{"name": "default", "template": "{{ raise_exception('only users\nplease') }}"}]}
    tokenizer = Tokenizer.load(save(TOKENIZERS["byte_level"], tmp_path, config))
    with pytest.raises(ConfigError, match=r"messages = .* chat template accepts \(only users\)$"):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_a_chat_template_runs_in_a_sandbox(tmp_path: Path) -> None:
    escape = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    tokenizer = Tokenizer.load(save(TOKENIZERS["byte_level"], tmp_path, {"chat_template": escape}))
    with pytest.raises(ConfigError):
        tokenizer.render_chat([{"role": "user", "content": "hi"}])


def test_a_begin_token_is_not_doubled() -> None:
    raw = byte_level()._raw
    raw.post_processor = pytest.importorskip("tokenizers.processors").TemplateProcessing(
        single=f"{SPECIAL} $A", special_tokens=[(SPECIAL, raw.token_to_id(SPECIAL))]
    )
    tokenizer = Tokenizer(raw, {"bos_token": SPECIAL})
    begin = raw.token_to_id(SPECIAL)
    assert tokenizer.encode_prompt("hi")[0] == begin
    assert tokenizer.encode_prompt(f"{SPECIAL}hi") == tokenizer.encode_prompt("hi")


def test_a_tokenizer_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="tokenizer cannot be read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match="tokenizer cannot be read"):
        Tokenizer.load(tmp_path)
