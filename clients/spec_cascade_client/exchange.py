"""One request and one reply over HTTP, by the standard library alone: what the canary and `scrape` need."""

from __future__ import annotations

from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from spec_cascade_client.errors import NoConnectionError
from spec_cascade_client.http_wire import reason

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes


def exchange(
    url: str,
    *,
    server: str,
    timeout: float,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """Ask a server, and read all that it answers.

    Args:
        url: ``http://`` or ``https://``, all of it.
        server: How an error names whom was asked.
        timeout: Seconds for each step.
        body: What is posted; None asks without one.
        headers: Sent with the request.
        context: Of an encrypted connection; None trusts what the system trusts.

    Raises:
        NoConnectionError: Nobody answers there, or the answer breaks off.
    """
    # Where the server is nobody but its user knows: no proxy of the environment is asked.
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(Request(url, body, dict(headers or {})), timeout=timeout) as reply:
            return Reply(reply.status, reply.read())
    except HTTPError as error:
        with error:
            return Reply(error.code, error.read())
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise NoConnectionError(server, reason(cause) if isinstance(cause, Exception) else str(cause)) from error
