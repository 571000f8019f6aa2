"""What became of each round, told to the process that sent the requests.

TensorRT-LLM brings tokens back, and nothing that says who wrote them. The sampler of rank 0 therefore sends one message
a round, over a socket of this machine, to whoever listens; within one process it calls him.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from socket import AF_UNIX, SO_RCVTIMEO, SO_SNDTIMEO, SOL_SOCKET, socket
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.judging import Block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_NAME = "spec-cascade-reports"
_BLOCK = tuple(field.name for field in fields(Block))
_BREATH = 0.5
"""Seconds before the next sender is waited for, where the system would not let one in, and for a lost one to return."""
_STALL = 1.0
"""Most seconds that the rounds wait for a listener that does not answer."""
_FIRST_REST, _LONGEST_REST = 0.1, 30.0
"""Seconds for which a sender whom nobody listens to lets the rounds go by; twice as many after each further trial."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one request gained in one round.

    Attributes:
        tag: Of the request, as its sender named it.
        position: Tokens of its output before the block: a report that was lost shows with the next one.
        block: What the round gave it, before any stop condition; None where it was broken off.
        error: Why it was broken off, in a sentence for its client; empty where it was not.
    """

    tag: int
    position: int
    block: Block | None
    error: str = ""


class ReportListener:
    """Receives reports from other processes of this machine.

    Args:
        receive: Called with the reports of a round, on a thread of its own.
        key: What a sender must know.
        lost: Called on such a thread when the last sender has gone, and none has come in its stead, before `close`: a
            socket of one machine does not break by itself, so its process has ended.

    Attributes:
        address: Where senders reach it.
    """

    def __init__(
        self, receive: Callable[[list[Report]], None], key: bytes, lost: Callable[[], None] | None = None
    ) -> None:
        self._receive = receive
        self._key = key
        self._lost = lost
        self._num_senders = 0
        self._lock = Lock()
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
            self._count_senders(1)
            while (message := _next_message(connection)) is not None and not self._closing.is_set():
                self._take(message)
        self._count_senders(-1)
        if self._lost is not None and not self._closing.wait(_BREATH) and self._count_senders(0) == 0:
            self._lost()

    def _take(self, message: bytes) -> None:
        try:
            self._receive([_read_report(report) for report in json.loads(message)])
        except Exception:  # whatever is wrong with one round: positions tell of its loss, and the next one is heard
            log.exception("the reports of a round could not be taken")

    def _count_senders(self, change: int) -> int:
        with self._lock:
            self._num_senders += change
            return self._num_senders


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
        self._rest = 0.0
        self._rests_until = 0.0

    def __call__(self, reports: Sequence[Report]) -> None:
        """Send the reports of a round; decoding goes on where nobody takes them."""
        if self._rest and time.monotonic() < self._rests_until:
            return
        message = json.dumps([_as_data(report) for report in reports]).encode()
        try:
            if self._connection is None:
                self._connection = _connect(self._address, self._key)
            self._connection.send_bytes(message)
        except (AuthenticationError, EOFError, OSError) as error:
            self._give_way(error)
        else:
            if self._rest:
                log.warning("the reports of the rounds are taken again")
            self._rest = 0.0

    def _give_way(self, error: Exception) -> None:
        """Let rounds go by before the next trial, the more the longer nobody has listened."""
        if self._connection is not None:
            # Part of a message may be on its way: what follows it would not be understood.
            self._connection.close()
            self._connection = None
        if not self._rest:
            log.error("nobody takes the reports of the rounds any more: %r", error)
        self._rest = min(2 * self._rest, _LONGEST_REST) or _FIRST_REST
        self._rests_until = time.monotonic() + self._rest


def _connect(address: str, key: bytes) -> Connection[Any, Any]:
    """As `multiprocessing.connection.Client` does, but with a limit on what reading and writing may take.

    Raises:
        AuthenticationError: The key is not the listener's.
        EOFError: It has hung up.
        OSError: There is no listener, or it does not answer.
    """
    with socket(AF_UNIX) as made:
        # The system's own limits, which bind whoever uses the socket, and not only this object.
        limit = struct.pack("ll", int(_STALL), int(_STALL % 1 * 1e6))
        made.setsockopt(SOL_SOCKET, SO_SNDTIMEO, limit)
        made.setsockopt(SOL_SOCKET, SO_RCVTIMEO, limit)
        made.connect(address)
        connection: Connection[Any, Any] = Connection(made.detach())
    try:
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
    except BaseException:
        connection.close()
        raise
    return connection


def _next_message(connection: Connection[Any, Any]) -> bytes | None:
    try:
        return connection.recv_bytes()
    except (EOFError, OSError):  # the sender's process ended
        return None


def _as_data(report: Report) -> dict[str, Any]:
    # Not `asdict`, which looks at every token of every list.
    block = None if report.block is None else {name: getattr(report.block, name) for name in _BLOCK}
    return {"tag": report.tag, "position": report.position, "block": block, "error": report.error}


def _read_report(data: dict[str, Any]) -> Report:
    block = None if data["block"] is None else Block(**data["block"])
    return Report(data["tag"], data["position"], block, data["error"])
