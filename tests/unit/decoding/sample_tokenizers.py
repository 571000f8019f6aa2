"""Small tokenizers of every kind that text comes out of."""

from __future__ import annotations

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as RawTokenizer

from spec_cascade.decoding.tokenizer import Tokenizer

CORPUS = ["the quick brown fox jumps over the lazy dog", "  indented\n\n\ttext", "日本語の文章です", "naïve café"]
SPECIAL = "<|end|>"


def byte_level() -> Tokenizer:
    raw = RawTokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[SPECIAL], initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(CORPUS * 8, trainer)
    raw.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return Tokenizer(raw, {"bos_token": SPECIAL})


def byte_fallback(last: list[decoders.Decoder]) -> Tokenizer:
    """As sentencepiece models are converted: pieces with ▁ for spaces, bytes for what the vocabulary lacks."""
    pieces = ["<unk>", SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), "▁", "▁▁", "▁the", "▁a", "é", "日"]
    pieces += [chr(i) for i in range(ord("a"), ord("z") + 1)]
    raw = RawTokenizer(
        models.BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True)
    )
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *last])
    raw.add_special_tokens([SPECIAL])
    return Tokenizer(raw)


def metaspace() -> Tokenizer:
    raw = byte_fallback([])._raw
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    return Tokenizer(raw)


def whole_words(decoder: decoders.Decoder | None) -> Tokenizer:
    vocab = {w: i for i, w in enumerate(["[UNK]", SPECIAL, "the", "##re", "dog", "##s", ".", "n't", "do", "é"])}
    raw = RawTokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    if decoder is not None:
        raw.decoder = decoder
    raw.add_special_tokens([SPECIAL])
    return Tokenizer(raw)


TOKENIZERS = {
    "byte_level": byte_level(),
    "byte_fallback_stripped": byte_fallback([decoders.Strip(" ", 1, 0)]),
    "byte_fallback": byte_fallback([]),
    "metaspace": metaspace(),
    "word_piece": whole_words(decoders.WordPiece()),
    "no_decoder": whole_words(None),
}
WINDOWED = ["byte_level", "byte_fallback_stripped", "byte_fallback", "metaspace"]
