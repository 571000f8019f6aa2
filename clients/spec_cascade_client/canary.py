"""A probe that asks for a token, end to end and within a deadline.

A server whose model process died goes on calling itself ready: only an answer proves that it answers. Made for
Kubernetes' exec probes, so it needs nothing but the standard library; ``python -m spec_cascade_client.canary`` runs it
where the command line's own libraries are not installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from http.client import HTTPException
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPSHandler, OpenerDirector, ProxyHandler, Request, build_opener

from spec_cascade_client.access import KEY_VARIABLE, read_access
from spec_cascade_client.address import Address, Tls
from spec_cascade_client.base import all_headers
from spec_cascade_client.errors import ClientError, InvalidRequestError, NoConnectionError, ServerError, from_server
from spec_cascade_client.http_wire import ssl_context

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_DEADLINE = 10.0
_FULL = "too many requests wait"
_LONGEST = 3600.0


class CanaryError(ClientError):
    """The server did not answer as it should, or not in time."""


def canary(
    url: str = DEFAULT_URL,
    *,
    model: str = "ensemble",
    deadline: float = DEFAULT_DEADLINE,
    headers: Mapping[str, str] | None = None,
    restricted_key: tuple[str, str] | None = None,
    tls: Tls | None = None,
) -> str:
    """Have the server make one token; returns a line that says how it went.

    A server that refuses because too many requests wait passes: it answers, and to restart it would help nobody.

    Args:
        url: ``http://`` or ``https://`` and ``host[:port]``.
        model: The Triton model to ask.
        deadline: Seconds for all of it, in (0, 3600].
        headers: Sent with the request.
        restricted_key: Name and value of the key, where Triton was started with ``--http-restricted-api`` for
            inference.
        tls: Certificates, for ``https://``.

    Raises:
        CanaryError: The server failed, or did not answer within the deadline.
        InvalidRequestError: An argument is not allowed.
    """
    address = Address.parse(url)
    if not address.scheme.startswith("http"):
        raise InvalidRequestError(f"url = {url!r}: the canary asks over http:// or https://")
    if not 0 < deadline <= _LONGEST:
        raise InvalidRequestError(f"deadline = {deadline!r}: must be seconds in (0, {_LONGEST:g}]")
    # A probe asks this very server, whatever proxy the environment names.
    encryption = [HTTPSHandler(context=ssl_context(tls or Tls()))] if address.encrypted else []
    opener = build_opener(ProxyHandler({}), *encryption)
    request = _request(address, model, deadline, all_headers(address, headers, restricted_key))
    start = time.monotonic()
    outcome: list[str | Exception] = []
    # On a thread: the timeouts of sockets bound each step, and a name that is looked up not at all.
    asked = (address, opener, request, deadline, outcome)
    asker = Thread(target=_ask, args=asked, name="spec-cascade-canary", daemon=True)
    asker.start()
    asker.join(deadline)
    if not outcome:
        raise CanaryError(f"no answer from {address} within {deadline:g} s")
    if isinstance(outcome[0], Exception):
        raise CanaryError(str(outcome[0])) from outcome[0]
    return f"{outcome[0]} in {time.monotonic() - start:.2f} s"


def main(arguments: list[str] | None = None) -> int:
    """Run the probe as a command; returns its exit status, 0 or 1, having written one line."""
    parser = argparse.ArgumentParser(
        prog="spec_cascade_client.canary",
        description="Have a server make one token.",
        epilog=f"The key of a restricted server is NAME=VALUE in the environment variable {KEY_VARIABLE}.",
    )
    parser.add_argument("url", nargs="?", default=DEFAULT_URL)
    parser.add_argument("--model", default="ensemble")
    parser.add_argument("--deadline", type=float, default=DEFAULT_DEADLINE, metavar="SECONDS")
    parser.add_argument("--header", action="append", default=[], metavar="NAME: VALUE")
    parser.add_argument("--ca-file", metavar="PEM")
    parser.add_argument("--certificate-file", metavar="PEM")
    parser.add_argument("--key-file", metavar="PEM")
    given = parser.parse_args(arguments)
    try:
        access = read_access(
            given.header, ca_file=given.ca_file, certificate_file=given.certificate_file, key_file=given.key_file
        )
        line = canary(given.url, model=given.model, deadline=given.deadline, **access)
    except ClientError as error:
        sys.stderr.write(f"canary: {error}\n")
        return 1
    sys.stdout.write(f"canary: {line}\n")
    return 0


def _request(address: Address, model: str, deadline: float, headers: Mapping[str, str]) -> Request:
    # The server sees no client leave before its answer begins: the request ends itself.
    asked = {"text_input": "canary", "max_tokens": 1, "temperature": 0, "timeout_ms": max(1, int(deadline * 1000))}
    url = f"{address}/v2/models/{quote(model, safe='')}/generate"
    return Request(url, json.dumps(asked).encode(), {**headers, "Content-Type": "application/json"})


def _ask(
    address: Address, opener: OpenerDirector, request: Request, deadline: float, outcome: list[str | Exception]
) -> None:
    try:
        outcome.append(_answer(address, opener, request, deadline))
    except Exception as error:  # whatever it is, it belongs to whoever waits for the outcome
        outcome.append(error)


def _answer(address: Address, opener: OpenerDirector, request: Request, deadline: float) -> str:
    try:
        with opener.open(request, timeout=deadline) as reply:
            fields = _fields(reply.read())
    except HTTPError as error:
        fields = _fields(error.read())
        fields.setdefault("error", f"the server answered with HTTP status {error.code}")
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise NoConnectionError(str(address), getattr(reason, "strerror", None) or str(reason)) from error
    if "error" in fields:
        refusal = from_server(fields["error"])
        if str(refusal).startswith(_FULL):
            return "busy, too many requests wait: answered"
        raise refusal
    if fields.get("finish_reason") not in ("stop", "length"):
        raise ServerError(f"the answer ended with finish_reason = {fields.get('finish_reason')!r}")
    return "ok: a token"


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError:
        fields = None
    return fields if isinstance(fields, dict) else {"error": "the server sent a response that is not a JSON object"}


if __name__ == "__main__":
    sys.exit(main())
