"""The vocabulary check: an id means the same to both models, or the first that does not is shown."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from spec_cascade_build.errors import BuildError
from spec_cascade_build.vocabulary import check_same_vocabulary, check_width, vocab_size
from tests.unit.build.checkpoints import SPECIALS, VOCAB, tiny_tokenizer


def test_a_tokenizer_shares_its_own_vocabulary() -> None:
    check_same_vocabulary(tiny_tokenizer(), tiny_tokenizer())


def test_the_first_different_id_is_shown() -> None:
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    pieces = {index: piece for piece, index in tiny_tokenizer().get_vocab().items()}
    others = {index: piece for piece, index in other.get_vocab().items()}
    first = next(i for i in range(VOCAB) if pieces.get(i) != others.get(i))
    with pytest.raises(BuildError) as caught:
        check_same_vocabulary(tiny_tokenizer(), other)
    assert f"id {first} is {pieces[first]!r} for the target and {others[first]!r} for the drafter" in str(caught.value)


def test_an_id_that_only_one_has_is_shown_with_both_sizes() -> None:
    larger = tiny_tokenizer()
    larger.add_tokens(["<tool>"])
    with pytest.raises(BuildError, match=rf"\({VOCAB} and {VOCAB + 1} ids\): id {VOCAB} is no token for the target"):
        check_same_vocabulary(tiny_tokenizer(), larger)


def test_another_end_token_is_refused() -> None:
    other = tiny_tokenizer()
    other.eos_token = "<|endoftext|>"
    with pytest.raises(BuildError, match="differ in eos_token_id: 2 and 0"):
        check_same_vocabulary(tiny_tokenizer(), other)


def test_another_padding_token_is_allowed() -> None:
    other = tiny_tokenizer()
    other.pad_token = "<|endoftext|>"
    check_same_vocabulary(tiny_tokenizer(), other)


def test_a_token_that_is_special_to_one_only_is_refused() -> None:
    ours, other = tiny_tokenizer(), tiny_tokenizer()
    ours.add_tokens(["<tool>"])
    other.add_tokens(["<tool>"], special_tokens=True)
    with pytest.raises(BuildError, match=rf"id {VOCAB} \('<tool>'\) is a special token of the drafter only"):
        check_same_vocabulary(ours, other)


def test_another_normaliser_is_refused_with_the_first_id_that_differs() -> None:
    other = tiny_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    ids = (tiny_tokenizer().convert_tokens_to_ids("T"), other.convert_tokens_to_ids("the"))
    with pytest.raises(BuildError) as caught:
        check_same_vocabulary(tiny_tokenizer(), other)
    assert 'split text differently (normalizer): token 0 of "The quick' in str(caught.value)
    assert f"is id {ids[0]} ('T') for the target and id {ids[1]} ('the') for the drafter" in str(caught.value)


def test_other_merges_to_the_same_pieces_are_refused() -> None:
    state = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    state["model"]["merges"] = []
    other = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        unk_token=SPECIALS[0],
    )
    with pytest.raises(BuildError, match=r"split text differently \(merges\): token \d+ of"):
        check_same_vocabulary(tiny_tokenizer(), other)


def test_logits_may_be_padded_but_not_missing() -> None:
    vocab = vocab_size(tiny_tokenizer())
    assert vocab == VOCAB
    check_width("target", vocab + 84, vocab)
    with pytest.raises(BuildError, match=f"the drafter has {vocab - 1} logits for the {vocab} ids"):
        check_width("drafter", vocab - 1, vocab)
