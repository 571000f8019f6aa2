"""Errors of serving, and what of an error a client is told."""

from __future__ import annotations

import logging
import re

from spec_cascade.errors import ConfigError, QueueFullError, SpecCascadeError

log = logging.getLogger(__name__)

INVALID_ARGUMENT = "INVALID_ARG"
UNAVAILABLE = "UNAVAILABLE"
INTERNAL = "INTERNAL"
CANCELLED = "CANCELLED"
STATUSES = (INVALID_ARGUMENT, UNAVAILABLE, INTERNAL, CANCELLED)
"""Triton's names of the statuses."""

_UNFORESEEN = "the server failed; see its log"

# What the server puts before the text of a model's error.
_ENSEMBLE = re.compile(r"^(?:in ensemble '[^']*', )+")


class LaunchError(SpecCascadeError):
    """The Triton server cannot be started, did not become ready, or died."""


class UnavailableError(SpecCascadeError):
    """The server cannot take or finish a request now; it may be sent again later, or to another server."""


class PassedOnError(SpecCascadeError):
    """An error that another model of the ensemble described already."""

    def __init__(self, message: str, status: str) -> None:
        self.status = status
        super().__init__(message)


def describe(error: Exception) -> tuple[str, str]:
    """The text and the status for a client: one line, and nothing of how this server is made.

    An error that we did not raise on purpose is logged; the client is told only that there is one.
    """
    text = " ".join(str(error).split())
    if isinstance(error, PassedOnError):
        return text, error.status
    if isinstance(error, ConfigError):
        return text, INVALID_ARGUMENT
    if isinstance(error, (QueueFullError, UnavailableError)):
        return text, UNAVAILABLE
    if isinstance(error, SpecCascadeError):
        return text, INTERNAL
    log.error("a request failed", exc_info=error)
    return _UNFORESEEN, INTERNAL


def as_told(error: Exception) -> tuple[str, str]:
    """What `describe` says, as the server's answer.

    Over HTTP every error of a model has the status 400: a word in front says that the request is not to blame.
    """
    text, status = describe(error)
    return text if status == INVALID_ARGUMENT else f"{status}: {text}", status


def told(text: str) -> PassedOnError:
    """The error of which a client of this server was told with this text; see `as_told`.

    The server tells a model that asks another one the text of an error alone, not its status.
    """
    text = _ENSEMBLE.sub("", text)
    for status in (UNAVAILABLE, INTERNAL, CANCELLED):
        if text.startswith(f"{status}: "):
            return PassedOnError(text.removeprefix(f"{status}: "), status)
    if ConfigError.PHRASE in text:
        return PassedOnError(text, INVALID_ARGUMENT)
    # The server's own, perhaps with the traceback of a model.
    log.error("a request failed: %s", text)
    return PassedOnError(_UNFORESEEN, INTERNAL)
