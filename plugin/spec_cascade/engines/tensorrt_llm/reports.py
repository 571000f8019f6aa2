"""What became of each round, told to the process that sent the requests.

TensorRT-LLM brings tokens back, and nothing that says who wrote them. The sampler of rank 0 therefore sends one message
a round, over a socket of this machine, to whoever listens; within one process it calls him.
"""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass, fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener, answer_challenge, deliver_challenge
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.judging import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

log = logging.getLogger(__name__)

_NAME = "spec-cascade-reports"
_BLOCK = tuple(field.name for field in fields(Block))
_BREATH = 0.5
"""Seconds before the next sender is waited for, where the system would not let one in."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one request gained in one round.

    Attributes:
        tag: Of the request, as its sender named it.
        block: What the round gave it, before any stop condition; None where it was broken off.
        error: Why it was broken off; empty where it was not.
    """

    tag: int
    block: Block | None
    error: str = ""


class ReportListener:
    """Receives reports from other processes of this machine.

    Args:
        receive: Called with the reports of a round, on a thread of its own.
        key: What a sender must know.

    Attributes:
        address: Where senders reach it.
    """

    def __init__(self, receive: Callable[[list[Report]], None], key: bytes) -> None:
        self._receive = receive
        self._key = key
        # It asks for no key itself: a stranger who does not answer would keep all others waiting.
        self._listener = Listener(family="AF_UNIX")
        self.address = str(self._listener.address)
        self._closing = Event()
        self._thread = Thread(target=self._accept, name=_NAME, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more. Idempotent."""
        if self._closing.is_set():
            return
        self._closing.set()
        with suppress(OSError):
            # To close a socket wakes nobody who waits for somebody to come; to come does.
            Client(self.address).close()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection = self._listener.accept()
            except OSError as error:
                log.warning("a sender of reports could not be let in: %s", error)
                self._closing.wait(_BREATH)
                continue
            if self._closing.is_set():
                connection.close()
            else:
                Thread(target=self._serve, args=(connection,), name=_NAME, daemon=True).start()

    def _serve(self, connection: Connection[Any, Any]) -> None:
        with connection:
            try:
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
            except (AuthenticationError, EOFError, OSError) as error:
                if not self._closing.is_set():
                    log.warning("a sender of reports was turned away: %r", error)
                return
            while (message := _next_message(connection)) is not None and not self._closing.is_set():
                self._receive([_read_report(report) for report in json.loads(message)])


class ReportSender:
    """Sends reports to a `ReportListener`; connects with the first.

    Args:
        address: Of the listener.
        key: What it asks for.
    """

    def __init__(self, address: str, key: bytes) -> None:
        self._address = address
        self._key = key
        self._connection: Connection[Any, Any] | None = None
        self._given_up = False

    def __call__(self, reports: Sequence[Report]) -> None:
        """Send the reports of a round; decoding goes on where nobody listens any more."""
        if self._given_up:
            return
        try:
            if self._connection is None:
                self._connection = Client(self._address, authkey=self._key)
            self._connection.send_bytes(json.dumps([_as_data(report) for report in reports]).encode())
        except (AuthenticationError, EOFError, OSError) as error:
            self._given_up = True
            if self._connection is not None:
                self._connection.close()
            log.error("nobody takes the reports of the rounds any more: %r", error)


def _next_message(connection: Connection[Any, Any]) -> bytes | None:
    try:
        return connection.recv_bytes()
    except (EOFError, OSError):  # the sender's process ended
        return None


def _as_data(report: Report) -> dict[str, Any]:
    # Not `asdict`, which looks at every token of every list.
    block = None if report.block is None else {name: getattr(report.block, name) for name in _BLOCK}
    return {"tag": report.tag, "block": block, "error": report.error}


def _read_report(data: dict[str, Any]) -> Report:
    return Report(data["tag"], None if data["block"] is None else Block(**data["block"]), data["error"])
