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
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING

from spec_cascade_client.access import KEY_VARIABLE, read_access
from spec_cascade_client.address import Address, Tls
from spec_cascade_client.base import all_headers
from spec_cascade_client.errors import BusyError, ClientError, InvalidRequestError, ServerError
from spec_cascade_client.exchange import exchange
from spec_cascade_client.http_wire import path, read_outputs, refusal, ssl_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spec_cascade_client.exchange import Reply

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
    if address.is_grpc:
        raise InvalidRequestError(f"url = {url!r}: the canary asks over http:// or https://")
    if not 0 < deadline <= _LONGEST:
        raise InvalidRequestError(f"deadline = {deadline!r}: must be seconds in (0, {_LONGEST:g}]")
    # The server sees no client leave before its answer begins: the request ends itself.
    asked = {"text_input": "canary", "max_tokens": 1, "temperature": 0, "timeout_ms": max(1, int(deadline * 1000))}
    ask = partial(
        exchange,
        f"{address.origin}{path(address, model, stream=False)}",
        server=str(address),
        timeout=deadline,
        body=json.dumps(asked).encode(),
        headers={**all_headers(address, headers, restricted_key), "Content-Type": "application/json"},
        context=ssl_context(tls or Tls()) if address.encrypted else None,
    )
    start = time.monotonic()
    outcome: list[str | Exception] = []
    # On a thread: the timeouts of sockets bound each step, and a name that is looked up not at all.
    asker = Thread(target=_report, args=(ask, outcome), name="spec-cascade-canary", daemon=True)
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


def _report(ask: Callable[[], Reply], outcome: list[str | Exception]) -> None:
    try:
        outcome.append(_answer(ask()))
    except Exception as error:  # whatever it is, it belongs to whoever waits for the outcome
        outcome.append(error)


def _answer(reply: Reply) -> str:
    try:
        if reply.status != 200:
            raise refusal(reply.status, reply.body)
        outputs = read_outputs(reply.body)
    except BusyError as error:
        if str(error).startswith(_FULL):
            return "busy, too many requests wait: answered"
        raise
    (reason,) = outputs.get("finish_reason") or [None]
    if reason not in ("stop", "length"):
        raise ServerError(f"the answer ended with finish_reason = {reason!r}")
    return "ok: a token"


if __name__ == "__main__":
    sys.exit(main())
