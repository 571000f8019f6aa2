"""A GGUF file's byte-level BPE tokenizer as a fast Hugging Face tokenizer.

The conversion in transformers guesses the class from the architecture; for a Llama-shaped model with a GPT-2
vocabulary it guesses wrong (wrong end token, digits not split, a begin token added). The metadata says all that is
needed, so this reads it. Meaning of the keys: the GGUF specification of ggml, section "Tokenizer".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class TokenType(IntEnum):
    """Values of ``tokenizer.ggml.token_type``."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How a text is cut before the merges apply.

    Attributes:
        splits: Regular expressions, applied one after the other; what matches stands alone.
        nfc: Whether the text is brought into Unicode normal form C first.
        ignore_merges: Whether a piece that is in the vocabulary is taken whole.
    """

    splits: tuple[str, ...]
    nfc: bool = False
    ignore_merges: bool = False


# Keys are values of tokenizer.ggml.pre, expressions those of llama.cpp (llama-vocab.cpp), which has them from the
# models' own tokenizer.json.
PRE_TOKENIZERS: dict[str, PreTokenizer] = {
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
    "gpt-2": PreTokenizer((_GPT2,)),
    "llama-bpe": PreTokenizer((_CASELESS + r"\p{N}{1,3}" + _TAIL,), ignore_merges=True),
    "qwen2": PreTokenizer((_CASELESS + r"\p{N}" + _TAIL,), nfc=True),
    "smollm": PreTokenizer((r"\p{N}", _GPT2)),
}


def read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """Make the tokenizer that a GGUF file describes.

    Raises:
        BuildError: Its tokenizer is not a byte-level BPE with a known pre-tokenizer.
    """
    from transformers import PreTrainedTokenizerFast

    metadata = _Metadata(path)
    backend = _backend(metadata)
    names = {
        name: metadata.token(key)
        for name, key in (
            ("bos_token", "bos_token_id"),
            ("eos_token", "eos_token_id"),
            ("unk_token", "unknown_token_id"),
            ("pad_token", "padding_token_id"),
        )
    }
    options: dict[str, Any] = {name: token for name, token in names.items() if token is not None}
    context = metadata.get(f"{metadata.get('general.architecture')}.context_length")
    if context is not None:
        options["model_max_length"] = context
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **options)
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


class _Metadata:
    """The key-value part of a GGUF file."""

    def __init__(self, path: Path) -> None:
        from gguf import GGUFReader

        try:
            self._fields = GGUFReader(path).fields
        except (ValueError, IndexError, OSError) as error:
            raise BuildError(f"{path.name} is not a readable GGUF file: {error}") from error
        self._values: dict[str, Any] = {}
        self.path = path

    def get(self, key: str) -> Any:
        if key not in self._values:
            field = self._fields.get(key)
            self._values[key] = None if field is None else field.contents()
        return self._values[key]

    def required(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise BuildError(f"{self.path.name} has no {key}: its tokenizer cannot be read")
        return value

    def token(self, key: str) -> str | None:
        """The text of the token whose id is at ``tokenizer.ggml.<key>``."""
        index = self.get(f"tokenizer.ggml.{key}")
        return None if index is None else self.required("tokenizer.ggml.tokens")[index]


def _backend(metadata: _Metadata) -> Tokenizer:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    rules = _pre_tokenizer(metadata)
    tokens, types = _tokens(metadata)
    merges = [_merge(line) for line in metadata.required("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        raise BuildError(f"{metadata.path.name} has two tokens of one text: its tokenizer cannot be read")
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=rules.ignore_merges))
    if rules.nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(split), behavior="isolated") for split in rules.splits),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        AddedToken(token, special=kind != TokenType.USER_DEFINED, normalized=False)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
    ]
    tokenizer.add_tokens(added)
    begin = metadata.token("bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token") and begin is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[begin, "$A"], pair=[begin, "$A", "$B:1"], special_tokens=[(begin, vocabulary[begin])]
        )
    return tokenizer


def _pre_tokenizer(metadata: _Metadata) -> PreTokenizer:
    model = metadata.required("tokenizer.ggml.model")
    if model != "gpt2":
        raise BuildError(
            f"{metadata.path.name} has a tokenizer of model {model!r}: only 'gpt2' (byte-level BPE) can be read; "
            "take a checkpoint with a tokenizer.json"
        )
    name = metadata.get("tokenizer.ggml.pre") or "default"
    if name not in PRE_TOKENIZERS:
        known = ", ".join(PRE_TOKENIZERS)
        raise BuildError(
            f"{metadata.path.name} has a pre-tokenizer {name!r}: only {known} can be read; "
            "take a checkpoint with a tokenizer.json"
        )
    return PRE_TOKENIZERS[name]


def _tokens(metadata: _Metadata) -> tuple[list[str], list[int]]:
    """The tokens that exist: converters fill the tail up to the logits' width with tokens of type UNUSED."""
    tokens: list[str] = metadata.required("tokenizer.ggml.tokens")
    types: list[int] = metadata.get("tokenizer.ggml.token_type") or [TokenType.NORMAL] * len(tokens)
    end = len(tokens)
    while end and types[end - 1] == TokenType.UNUSED:
        end -= 1
    return tokens[:end], types[:end]


def _merge(line: str) -> tuple[str, str]:
    """The two pieces of a merge; a piece may start with a space only if it is that space."""
    left, _, right = line[1:].partition(" ")
    return line[0] + left, right
