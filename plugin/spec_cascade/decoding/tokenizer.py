"""The tokenizer of an engine directory, without transformers: that library imports torch, which takes seconds."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as RawTokenizer

from spec_cascade.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2 import Template

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")


class Tokenizer:
    """Text to token ids and back.

    Args:
        raw: The fast tokenizer.
        settings: Content of ``tokenizer_config.json``.
    """

    def __init__(self, raw: RawTokenizer, settings: Mapping[str, Any] | None = None) -> None:
        raw.no_padding()
        raw.no_truncation()
        self._raw = raw
        self._settings = settings or {}

    @classmethod
    def load(cls, directory: Path | str) -> Tokenizer:
        """Read ``tokenizer.json``, ``tokenizer_config.json`` and, where there is one, ``chat_template.jinja``.

        Raises:
            EngineError: A file is missing or cannot be read.
        """
        place = Path(directory)
        try:
            raw = RawTokenizer.from_str((place / "tokenizer.json").read_text(encoding="utf-8"))
            settings = json.loads((place / "tokenizer_config.json").read_text(encoding="utf-8"))
            template = place / "chat_template.jinja"
            if template.is_file():
                settings["chat_template"] = template.read_text(encoding="utf-8")
        except Exception as error:
            # The library raises bare `Exception` for a file that it cannot parse.
            raise EngineError(f"{place}: the tokenizer cannot be read: {error}") from error
        return cls(raw, settings)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of ``text``; special tokens written out in it become their ids."""
        ids: list[int] = self._raw.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a raw prompt, with the begin token that the model expects, unless it is there already."""
        begins = bool(self.special_tokens.get("bos_token")) and text.startswith(self.special_tokens["bos_token"])
        return self.encode(text, add_special_tokens=not begins)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ``token_ids``: special tokens left out, spaces left alone."""
        text: str = self._raw.decode(list(token_ids), skip_special_tokens=True)
        return text

    def is_invisible(self, token_id: int) -> bool:
        """Whether `decode` leaves the token out: a special token, or an id without a token."""
        return token_id in self._special_ids or self._raw.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        """Whether the token stands for one byte of a character that the vocabulary lacks (byte fallback)."""
        return _BYTE_PIECE.fullmatch(self._raw.id_to_token(token_id) or "") is not None

    @cached_property
    def has_byte_fallback(self) -> bool:
        """Whether runs of byte tokens are decoded as one: a byte that does not fit spoils its whole run."""
        return any(kind == "ByteFallback" for kind, _ in self._decoders)

    @cached_property
    def decodes_in_windows(self) -> bool:
        """Whether the text of a token depends on nothing but the token before it; see `spec_cascade.decoding.text`."""
        return bool(self._decoders) and all(_is_local(kind, settings) for kind, settings in self._decoders)

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token: no text longer than n times this fits n tokens."""
        return max(len(piece) for piece in self._raw.get_vocab(with_added_tokens=True))

    @cached_property
    def special_tokens(self) -> dict[str, str]:
        """The special tokens by role, as chat templates know them."""
        tokens = {}
        for role in _SPECIAL_TOKENS:
            token = self._settings.get(role)
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str):
                tokens[role] = content
        return tokens

    def render_chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the model's chat template makes of a conversation, up to where the answer begins.

        Args:
            messages: Each with ``role`` and ``content``.

        Raises:
            ConfigError: There is no template, or it refuses the conversation.
        """
        from jinja2 import TemplateError

        if self._chat_template is None:
            raise ConfigError("messages", list(messages), "left out: this model has no chat template")
        try:
            return self._chat_template.render(
                messages=list(messages), tools=None, documents=None, add_generation_prompt=True, **self.special_tokens
            )
        except TemplateError as error:
            reason = str(error).partition("\n")[0]
            allowed = f"what the model's chat template accepts ({reason})"
            raise ConfigError("messages", list(messages), allowed) from error

    @cached_property
    def _chat_template(self) -> Template | None:
        template = self._settings.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
        return _compiled(template) if isinstance(template, str) else None

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        added = self._raw.get_added_tokens_decoder()
        return frozenset(token_id for token_id, token in added.items() if token.special)

    @cached_property
    def _decoders(self) -> list[tuple[str, dict[str, Any]]]:
        """The steps of the decoder in order: type and settings."""
        decoder = json.loads(self._raw.to_str())["decoder"] or {}
        steps = decoder.get("decoders", [decoder]) if decoder else []
        return [(step["type"], step) for step in steps]


def bad_word_sequences(tokenizer: Tokenizer, word: str) -> tuple[tuple[int, ...], ...]:
    """The token sequences that write a word: at the start of a text, and after a space (as vLLM takes bad words).

    Spaces in front of the word make no difference. Other spellings go free: in capitals, glued to what stands before,
    or cut into tokens otherwise than the tokenizer would cut it.
    """
    bare = word.lstrip(" ")
    texts = (bare, f" {bare}") if bare else (word,)
    ids = (tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    return tuple(dict.fromkeys(filter(None, ids)))


def _is_local(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether a decoding step looks at each token alone, or at most at whether it is the first."""
    if kind == "Replace":
        return bool(settings["pattern"] == {"String": "▁"})
    if kind == "Strip":
        return bool(settings["stop"] == 0)
    return kind in {"ByteLevel", "Metaspace", "ByteFallback", "Fuse"}


def _compiled(source: str) -> Template:
    """Compile a chat template in the environment that transformers gives it; a sandbox, since models bring it."""
    from jinja2 import TemplateError, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's words for training; here they are what they contain."""

        tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

        def parse(self, parser: Any) -> list[nodes.Node]:
            next(parser.stream)
            body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return body

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda layout: datetime.now().strftime(layout)
    return environment.from_string(source)
