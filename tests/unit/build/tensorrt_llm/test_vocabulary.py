"""The vocabulary that two models share, with real tokenizers of tiny checkpoints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tokenizers import AddedToken

from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.report import notes
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_tokenizer
from tests.unit.build.tensorrt_llm.pairs import checked, write_pair

if TYPE_CHECKING:
    from pathlib import Path


def pair_of(tmp_path: Path) -> Path:
    return write_pair(
        tmp_path / "pair.yaml",
        target={"path": "target"},
        drafter={"path": "drafter"},
        defaults={"max_seq_len": 128},
    )


def test_logits_may_be_wider_than_the_vocabulary(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB + 4, layers=1)
    pair, found = checked(pair_of(tmp_path), None)
    assert (found.vocabulary.size, found.vocabulary.compared, found.vocabulary.left_out) == (VOCAB, True, ())
    assert not [note for note in notes(pair, found) if "tokenizers" in note]


def test_a_special_token_that_the_drafter_has_no_row_for_is_left_out(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True)], special_tokens=True)
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20, tokenizer=tokenizer)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB, tokenizer=tokenizer, layers=1)
    pair, found = checked(pair_of(tmp_path), None)
    assert (found.vocabulary.size, found.vocabulary.left_out) == (VOCAB, ("<image>",))
    assert "special tokens that only one model has a row for are no tokens of this engine: <image>" in notes(
        pair, found
    )


def test_an_ordinary_token_that_the_drafter_has_no_row_for_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["word"])
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20, tokenizer=tokenizer)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB, tokenizer=tokenizer, layers=1)
    with pytest.raises(BuildError, match=f"the drafter has {VOCAB} logits for the {VOCAB + 1} ids of the tokenizer"):
        checked(pair_of(tmp_path), None)


def test_a_target_with_fewer_logits_than_ids_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "target", vocab=VOCAB - 4)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB - 4, layers=1)
    with pytest.raises(BuildError, match=f"the target has {VOCAB - 4} logits for the {VOCAB} ids"):
        checked(pair_of(tmp_path), None)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "target")
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    save_checkpoint(tmp_path / "drafter", tokenizer=other, layers=1)
    with pytest.raises(BuildError, match="target and drafter do not share a vocabulary"):
        checked(pair_of(tmp_path), None)


def test_without_tokenizers_the_narrower_model_decides(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB + 4, layers=1)
    (tmp_path / "drafter" / "tokenizer.json").unlink()
    pair, found = checked(pair_of(tmp_path), None)
    assert (found.vocabulary.size, found.vocabulary.compared) == (VOCAB + 4, False)
    assert any("the tokenizers were not compared" in note for note in notes(pair, found))


def test_an_end_of_answers_must_exist_for_both(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "target", vocab=VOCAB + 20)
    save_checkpoint(tmp_path / "drafter", vocab=VOCAB, layers=1)
    (tmp_path / "target" / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, VOCAB + 7]}))
    with pytest.raises(ConfigError, match=rf"drafter = '{VOCAB} ids' .* a row for id {VOCAB + 7}, which ends answers"):
        checked(pair_of(tmp_path), None)
