"""The errors of the client library: one root, one class for each thing that a caller does differently."""

from __future__ import annotations

import re

# The words of the models for a value that they refuse, and of Triton for a model that it does not have.
_REFUSED = re.compile(r" is not allowed: must be |^Request for unknown model")
# The server's words for a prompt that its window does not hold.
_TOO_LONG = re.compile(r"must be a prompt of at most (\d+) tokens$")
# What Triton puts before an error's text: nothing that a user could do anything with.
_PREFIXES = re.compile(r"^(\[request id: [^\]]*\] )?(in ensemble '[^']*', )*")


class ClientError(Exception):
    """Root of every error that the client raises on purpose; its text is one line, fit for a user's eyes."""


class InvalidRequestError(ClientError):
    """The server, or the client before sending, refused the request; sending it again will not help."""


class PromptTooLongError(InvalidRequestError):
    """The prompt does not fit the model's window.

    Attributes:
        limit: Most tokens of a prompt.
    """

    def __init__(self, text: str, limit: int) -> None:
        super().__init__(text)
        self.limit = limit


class UnavailableError(ClientError):
    """The server cannot be reached, takes no more requests now, or went away; another attempt may succeed."""


class BusyError(UnavailableError):
    """The server takes no requests now, or gave this one up: to send it again, later or elsewhere, is safe."""


class NoConnectionError(UnavailableError):
    """Nobody answers at the address; the request was not sent."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(f"cannot connect to {url}: {reason}")


class ServerError(ClientError):
    """The server accepted the request and failed, or answered something that is not the wire's contract."""


class IdleTimeoutError(ClientError):
    """The server sent nothing for longer than the client was told to wait."""

    def __init__(self, url: str, seconds: float) -> None:
        super().__init__(f"{url} sent nothing for {seconds:g} s")


class DeadlineError(ClientError):
    """The request was not finished in the time that the caller gave it."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the request was not finished within its deadline of {seconds:g} s")


def from_server(text: object, kind: type[ClientError] = ServerError) -> ClientError:
    """The error for what the server says, on one line.

    Over HTTP, Triton answers every failure of a model with status 400; in mid-stream no status is left to give, and on
    a gRPC stream there is none. The models therefore start the text with ``UNAVAILABLE:`` or ``INTERNAL:`` where the
    request is not to blame.

    Args:
        text: The server's words.
        kind: What the status says, where the text says nothing.
    """
    line = _PREFIXES.sub("", " ".join(str(text).split()))
    for word, named in (("UNAVAILABLE", BusyError), ("INTERNAL", ServerError)):
        if line.startswith(f"{word}: "):
            return named(line[len(word) + 2 :])
    if too_long := _TOO_LONG.search(line):
        return PromptTooLongError(line, int(too_long[1]))
    return (InvalidRequestError if _REFUSED.search(line) else kind)(line)
