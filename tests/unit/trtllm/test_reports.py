"""Reports of rounds on their way from one process to another."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import socket
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.judging import Block
from spec_cascade.engines.tensorrt_llm.reports import Report, ReportListener, ReportSender

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection

KEY = b"a key that both sides know"
SECONDS = 120.0
BLOCK = Block([5, 6, 7], drafted=3, deferred=[False, True, True], verifier="reference: why", log_probs=[-0.5, -1.25])
LOG = "spec_cascade.engines.tensorrt_llm.reports"


def worker(orders: Connection[Any, Any]) -> None:
    """Another process: sends what it is told to, and tells what was logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(LOG).addHandler(handler)
    senders: dict[str, ReportSender] = {}
    while True:
        address, key, reports = orders.recv()
        for each in reports:
            senders.setdefault(address, ReportSender(address, key))(each)
        orders.send(list(lines))


class Worker:
    """Its end in this process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._orders, theirs = context.Pipe()
        self.process = context.Process(target=worker, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, listener: ReportListener, *rounds: list[Report], key: bytes = KEY) -> list[str]:
        """Have rounds reported; returns all that was logged so far."""
        self._orders.send((listener.address, key, rounds))
        assert self._orders.poll(SECONDS)
        logged: list[str] = self._orders.recv()
        return logged

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._orders.close()


@pytest.fixture(scope="module")
def other() -> Iterator[Worker]:
    process = Worker()
    yield process
    process.kill()


@pytest.fixture
def received() -> queue.Queue[list[Report]]:
    return queue.Queue()


@pytest.fixture
def listener(received: queue.Queue[list[Report]]) -> Iterator[ReportListener]:
    listening = ReportListener(received.put, KEY)
    yield listening
    listening.close()


def threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "spec-cascade-reports"}


def taken(received: queue.Queue[list[Report]], count: int) -> list[list[Report]]:
    return [received.get(timeout=SECONDS) for _ in range(count)]


def test_reports_arrive_whole_and_in_their_order(
    other: Worker, listener: ReportListener, received: queue.Queue[list[Report]]
) -> None:
    sent = [[Report(tag, number, Block([number, tag])) for tag in range(3)] for number in range(100)]
    sent.append([Report(3, 7, BLOCK), Report(4, 9, None, "the model's logits make no distribution")])
    assert other.send(listener, *sent) == []
    assert taken(received, len(sent)) == sent
    assert received.empty()


def test_a_stranger_is_turned_away_and_the_next_sender_is_served(
    other: Worker, listener: ReportListener, received: queue.Queue[list[Report]], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, LOG):
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=b"a guess")
        with Client(listener.address) as without_key:
            without_key.send_bytes(b'[{"tag": 0, "position": 0, "block": null, "error": "forged"}]')
            # It is hung up on, after the challenge that it did not meet.
            with pytest.raises((EOFError, OSError)):
                without_key.recv_bytes(), without_key.recv_bytes(), without_key.recv_bytes()
        silent = socket.socket(socket.AF_UNIX)
        silent.connect(listener.address)
        other.send(listener, [Report(1, 0, BLOCK)])
        assert taken(received, 1) == [[Report(1, 0, BLOCK)]]
        silent.close()
    assert received.empty()
    assert sum("turned away" in message for message in caplog.messages) >= 2


def test_a_sender_with_another_key_gives_up_and_its_rounds_go_on(
    other: Worker, listener: ReportListener, received: queue.Queue[list[Report]]
) -> None:
    logged = other.send(listener, [Report(1, 0, BLOCK)], [Report(2, 0, BLOCK)], key=b"the key of yesterday")
    assert [line for line in logged if "nobody takes the reports" in line] == logged[-1:]
    assert received.empty()


def test_a_sender_that_dies_costs_nobody_but_itself(
    other: Worker, listener: ReportListener, received: queue.Queue[list[Report]]
) -> None:
    mortal = Worker()
    mortal.send(listener, [Report(1, 0, BLOCK)])
    mortal.kill()
    other.send(listener, [Report(2, 0, BLOCK)])
    assert taken(received, 2) == [[Report(1, 0, BLOCK)], [Report(2, 0, BLOCK)]]


def test_where_nobody_listens_any_more_that_is_said_once(other: Worker, received: queue.Queue[list[Report]]) -> None:
    listener = ReportListener(received.put, KEY)
    before = other.send(listener, [Report(1, 0, BLOCK)])
    assert taken(received, 1) == [[Report(1, 0, BLOCK)]]
    listener.close()
    # Of what is under way when it closes nothing is taken, whether the sender knows it already or not.
    after = other.send(listener, *[[Report(2, 0, BLOCK)]] * 100)
    for _ in range(100):
        after = other.send(listener, [Report(3, 0, BLOCK)])
    assert len(after) == len(before) + 1
    assert "nobody takes the reports" in after[-1]
    assert received.empty()


def test_a_sender_that_nobody_ever_listened_to_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sender = ReportSender(str(tmp_path / "nobody"), KEY)
    with caplog.at_level(logging.ERROR, LOG):
        sender([Report(1, 0, BLOCK)])
        sender([Report(2, 0, BLOCK)])
    assert len(caplog.messages) == 1


def test_closing_frees_the_socket_and_ends_the_thread(received: queue.Queue[list[Report]]) -> None:
    before = threads()
    listener = ReportListener(received.put, KEY)
    assert Path(listener.address).is_socket()
    assert len(threads() - before) == 1
    listener.close()
    listener.close()
    assert threads() <= before
    assert not Path(listener.address).exists()


def test_a_round_that_cannot_be_taken_costs_no_other(caplog: pytest.LogCaptureFixture) -> None:
    received: queue.Queue[list[Report]] = queue.Queue()

    def receive(reports: list[Report]) -> None:
        if reports[0].tag == 1:
            raise RuntimeError("not this one")
        received.put(reports)

    listener = ReportListener(receive, KEY)
    send = ReportSender(listener.address, KEY)
    with caplog.at_level(logging.ERROR, LOG), Client(listener.address, authkey=KEY) as raw:
        for tag in range(3):
            send([Report(tag, 0, BLOCK)])
        assert taken(received, 2) == [[Report(0, 0, BLOCK)], [Report(2, 0, BLOCK)]]
        raw.send_bytes(b"no reports")
        raw.send_bytes(b'[{"tag": 3, "position": 4, "block": null, "error": "why"}]')
        assert taken(received, 1) == [[Report(3, 4, None, "why")]]
    listener.close()
    assert len([message for message in caplog.messages if "could not be taken" in message]) == 2
    assert "not this one" in caplog.text


def sent_until(send: ReportSender, tag: int, arrived: threading.Event) -> None:
    """Report rounds until one has arrived."""
    until = time.monotonic() + SECONDS
    while not arrived.wait(0.05) and time.monotonic() < until:
        send([Report(tag, 0, BLOCK)])
    assert arrived.is_set()


def test_a_sender_finds_a_listener_that_comes_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    address = str(tmp_path / "reports")
    send = ReportSender(address, KEY)
    with caplog.at_level(logging.WARNING, LOG):
        for tag in range(3):
            arrived = threading.Event()

            def listen(arrived: threading.Event = arrived) -> None:
                with Listener(address, authkey=KEY) as listening, listening.accept() as connection:
                    connection.recv_bytes()
                    arrived.set()

            listening = threading.Thread(target=listen, daemon=True)
            listening.start()
            sent_until(send, tag, arrived)
            listening.join(SECONDS)
    ends, returns = (sum(text in message for message in caplog.messages) for text in ("any more", "taken again"))
    assert ends == returns == len(caplog.messages) / 2
    assert ends >= 2


def test_a_listener_that_does_not_answer_holds_the_rounds_up_but_shortly(tmp_path: Path) -> None:
    address = str(tmp_path / "silent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(address)
        silent.listen()
        reporting = threading.Thread(target=ReportSender(address, KEY), args=([Report(1, 0, BLOCK)],), daemon=True)
        reporting.start()
        reporting.join(SECONDS)
        assert not reporting.is_alive()


def test_the_end_of_the_last_sender_is_told(received: queue.Queue[list[Report]]) -> None:
    lost = threading.Event()
    listener = ReportListener(received.put, KEY, lost.set)
    mortal, survivor = Worker(), Client(listener.address, authkey=KEY)
    mortal.send(listener, [Report(1, 0, BLOCK)])
    assert taken(received, 1) == [[Report(1, 0, BLOCK)]]
    mortal.kill()
    # There is another one yet.
    assert not lost.wait(2.0)
    survivor.close()
    assert lost.wait(SECONDS)
    listener.close()


def test_who_closes_is_told_of_no_end(received: queue.Queue[list[Report]]) -> None:
    lost = threading.Event()
    listener = ReportListener(received.put, KEY, lost.set)
    sender = Client(listener.address, authkey=KEY)
    with pytest.raises(AuthenticationError):
        # A stranger is no sender.
        Client(listener.address, authkey=b"a guess")
    sender.send_bytes(b"[]")
    assert taken(received, 1) == [[]]
    listener.close()
    sender.close()
    assert not lost.wait(2.0)
