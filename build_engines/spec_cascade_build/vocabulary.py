"""The vocabulary check: a cascade compares rows token by token, so an id must mean the same to both models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


# What tokenizers treat differently: case, composed letters, widths, spaces, digits, contractions, code, other scripts.
_PROBES = (
    "The quick brown fox, didn't it? IT'S 12,345.67 kg\u2026",
    "  two spaces,\ta tab,\r\n\n\nlines \u00a0 and no break",
    "caf\u00e9 cafe\u0301 \ufb01ne \uff21\uff22 \u00bd \u2167 \u0663",
    "def f(x):\n    return x ** 2  # 1e-5 != 0xFF\n\n{'a': [1, 2]}",
    "\u65e5\u672c\u8a9e, \u0440\u0443\u0441\u0441\u043a\u0438\u0439, \u0627\u0644\u0639\u0631\u0628\u064a\u0629, "
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467",
)


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
    """Verify that both tokenizers give every id the same piece, mark the same ids as special and split text alike.

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
    _check_same_splits(target, drafter)


def _check_same_splits(target: PreTrainedTokenizerFast, drafter: PreTrainedTokenizerFast) -> None:
    """The same pieces may be joined by other merges, or found in a text that was normalised in another way."""
    for text in _PROBES:
        ids, drafter_ids = (t.encode(text, add_special_tokens=False) for t in (target, drafter))
        if ids == drafter_ids:
            continue
        place = next((i for i, (a, b) in enumerate(zip(ids, drafter_ids, strict=False)) if a != b), None)
        place = min(len(ids), len(drafter_ids)) if place is None else place
        piece, drafter_piece = (_named(t, found, place) for t, found in ((target, ids), (drafter, drafter_ids)))
        raise BuildError(
            f"target and drafter split text differently ({_difference(target, drafter)}): token {place} of {text!r} "
            f"is {piece} for the target and {drafter_piece} for the drafter"
        )


def _difference(target: PreTrainedTokenizerFast, drafter: PreTrainedTokenizerFast) -> str:
    """The part of the tokenizers that differs."""
    ours, theirs = (json.loads(t.backend_tokenizer.to_str()) for t in (target, drafter))
    parts = [part for part in ("normalizer", "pre_tokenizer") if ours[part] != theirs[part]]
    return " and ".join(parts) or "merges"


def _named(tokenizer: PreTrainedTokenizerFast, ids: list[int], place: int) -> str:
    if place >= len(ids):
        return "no token"
    return f"id {ids[place]} ({tokenizer.convert_ids_to_tokens(ids[place])!r})"


def _pieces(tokenizer: PreTrainedTokenizerFast) -> dict[int, str]:
    return {index: piece for piece, index in tokenizer.get_vocab().items()}


def _special(tokenizer: PreTrainedTokenizerFast) -> set[int]:
    return {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def _shown(piece: str | None) -> str:
    return "no token" if piece is None else repr(piece)
