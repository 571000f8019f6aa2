"""A GGUF file's tokenizer gives the ids of the tokenizer it was written from, and its text comes back whole."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Regex, pre_tokenizers
from transformers import AutoTokenizer

from spec_cascade_build.errors import BuildError
from spec_cascade_build.gguf_tokenizer import PRE_TOKENIZERS, read_tokenizer
from tests.unit.build.checkpoints import HARD_TEXTS, SPECIALS, TEMPLATE, VOCAB, tiny_tokenizer, write_gguf

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_text_comes_back_whole(tmp_path: Path, pre: str, text: str) -> None:
    write_gguf(tmp_path / "m.gguf", pre=pre)
    tokenizer = read_tokenizer(tmp_path / "m.gguf")
    text = text.replace("e\u0301", "\u00e9").replace("a\u0308", "\u00e4") if PRE_TOKENIZERS[pre].nfc else text
    assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_gpt2_ids_are_those_of_the_original(tmp_path: Path, text: str) -> None:
    write_gguf(tmp_path / "m.gguf", pre="gpt-2")
    assert read_tokenizer(tmp_path / "m.gguf")(text).input_ids == tiny_tokenizer()(text).input_ids


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_smollm_splits_digits_as_its_own_tokenizer_does(tmp_path: Path, text: str) -> None:
    write_gguf(tmp_path / "m.gguf", pre="smollm")
    original = tiny_tokenizer().backend_tokenizer
    original.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert read_tokenizer(tmp_path / "m.gguf")(text).input_ids == original.encode(text).ids


def test_llama_bpe_takes_digits_in_threes(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", pre="llama-bpe")
    splitter = read_tokenizer(tmp_path / "m.gguf").backend_tokenizer.pre_tokenizer
    assert [piece for piece, _ in splitter.pre_tokenize_str("x1234567!")] == ["x", "123", "456", "7", "!"]


def test_special_tokens_and_chat_template_are_those_of_the_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf")
    tokenizer = read_tokenizer(tmp_path / "m.gguf")
    assert (tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token) == SPECIALS
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer("<|im_start|>a<|im_end|>").input_ids[0] == 1
    assert tokenizer.decode([1, 2], skip_special_tokens=True) == ""
    assert len(tokenizer) == VOCAB


def test_a_begin_token_is_added_only_if_the_file_says_so(tmp_path: Path) -> None:
    for added in (False, True):
        write_gguf(tmp_path / "m.gguf", add_bos_token=added)
        assert (read_tokenizer(tmp_path / "m.gguf")("a").input_ids[0] == 1) == added


def test_unused_tokens_at_the_end_do_not_exist(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", unused=20)
    assert len(read_tokenizer(tmp_path / "m.gguf")) == VOCAB


def test_the_saved_tokenizer_loads_without_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_gguf(tmp_path / "m.gguf")
    tokenizer = read_tokenizer(tmp_path / "m.gguf")
    tokenizer.save_pretrained(tmp_path / "saved", save_jinja_files=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert caplog.records == []
    assert loaded.chat_template == TEMPLATE
    assert [loaded(text).input_ids for text in HARD_TEXTS] == [tokenizer(text).input_ids for text in HARD_TEXTS]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "llama"}, "a tokenizer of model 'llama': only 'gpt2'"),
        ({"pre": "deepseek-llm"}, "a pre-tokenizer 'deepseek-llm': only default, gpt-2, llama-bpe, qwen2, smollm"),
    ],
)
def test_other_tokenizers_are_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    write_gguf(tmp_path / "m.gguf", **fields)
    with pytest.raises(BuildError) as caught:
        read_tokenizer(tmp_path / "m.gguf")
    assert message in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model" * 100)
    with pytest.raises(BuildError, match=r"m\.gguf is not a readable GGUF file"):
        read_tokenizer(tmp_path / "m.gguf")


def test_the_expressions_are_valid() -> None:
    for pre in PRE_TOKENIZERS.values():
        for split in pre.splits:
            Regex(split)
