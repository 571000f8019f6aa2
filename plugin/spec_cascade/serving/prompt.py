"""From text or a conversation to the prompt's tokens."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from spec_cascade.decoding.tokenizer import Tokenizer
    from spec_cascade.serving.parse import Fields


# JSON can spell characters that are no text.
_UNFIT = re.compile("[\0\ud800-\udfff]")
# Characters of JSON for one of a conversation: six are an escaped one, the rest is for roles, brackets and quotes.
_JSON_PER_CHARACTER = 8


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt.

    Attributes:
        token_ids: Its tokens.
        text: What they were made of.
        is_echoed: Whether the output shall begin with the text.
    """

    token_ids: list[int]
    text: str
    is_echoed: bool


def make_prompt(fields: Fields, tokenizer: Tokenizer, max_tokens: int) -> Prompt:
    """Make the prompt that the fields of the preprocessing model ask for.

    Args:
        fields: Read with `read_fields`.
        tokenizer: The model's.
        max_tokens: Longest prompt that the engine takes.

    Raises:
        ConfigError: A value is not allowed, or the prompt is empty or too long.
    """
    longest = max_tokens * tokenizer.longest_token
    _check_length("messages", str(fields.get("messages", "")), _JSON_PER_CHARACTER * longest, max_tokens)
    name, text, is_chat = _text(fields, tokenizer)
    _check_length(name, text, longest, max_tokens)
    token_ids = tokenizer.encode(text, add_special_tokens=False) if is_chat else tokenizer.encode_prompt(text)
    if not token_ids:
        raise ConfigError(name, text, "a prompt of at least one token")
    if len(token_ids) > max_tokens:
        raise _too_long(name, f"{len(token_ids)} tokens", max_tokens)
    return Prompt(token_ids, text, is_echoed=not fields.get("exclude_input_in_output", True))


def _text(fields: Fields, tokenizer: Tokenizer) -> tuple[str, str, bool]:
    """The field that the prompt comes from, its text, and whether that is a rendered conversation."""
    if ("text_input" in fields) == ("messages" in fields):
        given = {name: fields[name] for name in ("text_input", "messages") if name in fields}
        raise ConfigError("text_input", given or None, "given, or messages instead; one of the two")
    if "messages" in fields:
        return "messages", tokenizer.render_chat(_messages(str(fields["messages"]))), True
    text = str(fields["text_input"])
    if fields.get("apply_chat_template", False):
        return "text_input", tokenizer.render_chat([{"role": "user", "content": text}]), True
    return "text_input", text, False


def _messages(text: str) -> list[dict[str, str]]:
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise ConfigError("messages", text, "JSON: a list of objects with role and content") from error
    if not isinstance(messages, list) or not messages:
        raise ConfigError("messages", messages, "a list of at least one object with role and content")
    for i, message in enumerate(messages):
        _check_message(f"messages[{i}]", message)
    return messages


def _check_message(where: str, message: object) -> None:
    keys = ("role", "content")
    if not isinstance(message, dict) or any(not isinstance(message.get(key), str) for key in keys):
        raise ConfigError(where, message, "an object whose role and content are strings")
    for key, value in message.items():
        if key not in keys:
            raise ConfigError(f"{where}.{key}", value, f"left out{did_you_mean(key, keys)}")
        if _UNFIT.search(value):
            raise ConfigError(f"{where}.{key}", value, "text without NUL characters and lone surrogates")


def _check_length(name: str, text: str, longest: int, max_tokens: int) -> None:
    if len(text) > longest:
        raise _too_long(name, f"{len(text)} characters", max_tokens)


def _too_long(name: str, length: str, max_tokens: int) -> ConfigError:
    return ConfigError(name, length, f"a prompt of at most {max_tokens} tokens")
