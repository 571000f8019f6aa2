"""The vocabulary check: a cascade compares rows token by token, so an id must mean the same to both models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def vocab_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Ids that exist: one more than the largest."""
    ids: dict[str, int] = tokenizer.get_vocab()
    return max(ids.values()) + 1


def check_width(whose: str, logits: int, vocab: int) -> None:
    """Verify that a model has a logit for every id; more are padding.

    Raises:
        BuildError: It has fewer.
    """
    if logits < vocab:
        raise BuildError(f"the {whose} has {logits} logits for the {vocab} ids of its tokenizer")


def check_same_vocabulary(target: PreTrainedTokenizerFast, drafter: PreTrainedTokenizerFast) -> None:
    """Verify that both tokenizers give every id the same piece and mark the same ids as special.

    The begin, end and unknown tokens must agree where both tokenizers have one. The padding token may differ: only
    training uses it. So may the width of the logits.

    Raises:
        BuildError: They differ; the first id that does is named.
    """
    pieces, drafter_pieces = _pieces(target), _pieces(drafter)
    for index in sorted(pieces.keys() | drafter_pieces.keys()):
        piece, drafter_piece = pieces.get(index), drafter_pieces.get(index)
        if piece != drafter_piece:
            raise BuildError(
                f"target and drafter do not share a vocabulary ({len(pieces)} and {len(drafter_pieces)} ids): "
                f"id {index} is {_shown(piece)} for the target and {_shown(drafter_piece)} for the drafter"
            )
    for name in ("bos_token_id", "eos_token_id", "unk_token_id"):
        index, drafter_index = getattr(target, name), getattr(drafter, name)
        if None not in (index, drafter_index) and index != drafter_index:
            raise BuildError(f"target and drafter differ in {name}: {index} and {drafter_index}")
    different = _special(target) ^ _special(drafter)
    if different:
        index = min(different)
        whose = "target" if index in _special(target) else "drafter"
        raise BuildError(f"id {index} ({_shown(pieces[index])}) is a special token of the {whose} only")


def _pieces(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    return {index: piece for piece, index in tokenizer.get_vocab().items()}


def _special(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def _shown(piece: str | None) -> str:
    return "no token" if piece is None else repr(piece)
