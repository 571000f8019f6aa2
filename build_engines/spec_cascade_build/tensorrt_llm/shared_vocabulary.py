"""The ids that both models of a pair can read and write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.vocabulary import check_same_vocabulary, check_width, vocab_size

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.tensorrt_llm.facts import ModelFacts


@dataclass(frozen=True, slots=True)
class SharedVocabulary:
    """The vocabulary of a pair.

    Attributes:
        size: Ids below it exist for both models; the engine takes no other.
        compared: Whether both tokenizers were there to be compared; without, `size` is the narrower model's width.
        left_out: Special tokens beyond `size`, which one of the models has no row for.
    """

    size: int
    compared: bool
    left_out: tuple[str, ...] = ()


def shared_vocabulary(
    target: ModelFacts,
    drafter: ModelFacts,
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast] | None,
) -> SharedVocabulary:
    """Compare the widths of both models, and their tokenizers where they are there.

    Logits may be wider than the vocabulary, by different amounts. A special token at its end may be missing from one
    model: Gemma 3 has one for images that its text-only model has no embedding for. It is then no token of the engine,
    for an id that a model cannot look up would end the process on the GPU.

    Args:
        target: The target.
        drafter: The drafter.
        tokenizers: Of the target and the drafter; None where they are not there.

    Raises:
        ConfigError: A token that ends answers does not exist for both models.
        BuildError: The tokenizers differ, or the narrower model lacks a token that is not special.
    """
    width = min(target.logits, drafter.logits)
    if tokenizers is None:
        _check_ends(target, width)
        return SharedVocabulary(width, compared=False)
    check_same_vocabulary(*tokenizers)
    ids = vocab_size(tokenizers[0])
    check_width("target", target.logits, ids)
    size = min(ids, width)
    special = {index: token for index, token in tokenizers[0].added_tokens_decoder.items() if token.special}
    missing = [index for index in range(size, ids) if index not in special]
    if missing:
        raise BuildError(f"the drafter has {drafter.logits} logits for the {ids} ids of the tokenizer")
    _check_ends(target, size)
    return SharedVocabulary(
        size, compared=True, left_out=tuple(str(special[index].content) for index in range(size, ids))
    )


def tokenizers_in(target: Path, drafter: Path) -> bool:
    """Whether both directories have a tokenizer that can be compared."""
    return all((directory / "tokenizer.json").is_file() for directory in (target, drafter))


def _check_ends(target: ModelFacts, size: int) -> None:
    beyond = [index for index in target.eos_token_ids if index >= size]
    if beyond:
        raise ConfigError("drafter", f"{size} ids", f"a model that has a row for id {beyond[0]}, which ends answers")
