"""The errors of the decoding plugin: one root, so that a caller can catch everything we raise on purpose."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class SpecCascadeError(Exception):
    """Root of every error that spec-cascade raises on purpose; its text is fit for a user's eyes."""


class ConfigError(SpecCascadeError, ValueError):
    """A field has a value that is not allowed.

    Args:
        field: Name of the field as its user wrote it, e.g. ``temperature`` or ``token_v3.alpha``.
        value: The offending value.
        allowed: What would be allowed, as a phrase: ``"a number in [0, 1]"``.
    """

    PHRASE = "is not allowed: must be"
    """In the text of every one, and of no other error."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        self.field = field
        self.value = value
        self.allowed = allowed
        super().__init__(f"{field} = {_shortened(value)} {self.PHRASE} {allowed}")


class EngineError(SpecCascadeError):
    """An engine directory cannot be used, or an engine failed while it ran."""


class QueueFullError(SpecCascadeError):
    """The engine's waiting queue is at its limit; the request was not accepted and may be sent again later."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the closest known word, or an empty string."""
    matches = get_close_matches(word, list(known), n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _shortened(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
