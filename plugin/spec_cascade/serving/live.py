"""Live requests: each engine output is sent as it comes, and a client that goes away is noticed.

Each live request has a thread that waits for its rounds and sends them. One more thread, the watch, looks after all:
it finds out whether a request was cancelled, also while the engine is quiet, and publishes the metrics.

The server tells a model of an *ensemble* nothing of the ensemble's client: cancellation reaches only steps that are
scheduled later. So a request with a token gets heartbeats: responses without content for postprocessing, which are
scheduled, see the cancellation, and come back as a request with a cancel token. For the same reason its errors are sent
as responses: an error of this model would end the ensemble before postprocessing is done with the responses before it.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Protocol

from spec_cascade.decoding.request import FinishReason
from spec_cascade.errors import EngineError
from spec_cascade.serving.errors import UnavailableError
from spec_cascade.serving.metrics import CascadeMetrics
from spec_cascade.serving.responses import ResponseBuilder, failure, heartbeat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spec_cascade.engines.protocol import Engine, Generation
    from spec_cascade.serving.metrics import Registry, RequestMeter
    from spec_cascade.serving.parse import CascadeRequest

log = logging.getLogger(__name__)

WATCH_SECONDS = 0.05
HEARTBEAT_SECONDS = 0.4


class Sender(Protocol):
    """Sends the responses to one request; used by one thread at a time, and not after its end."""

    def send(self, values: Mapping[str, Any]) -> None:
        """Send one response."""

    def fail(self, error: Exception) -> None:
        """Send an error, and that it was the last response."""

    def finish(self) -> None:
        """Send that there are no more responses."""

    def is_cancelled(self) -> bool:
        """Whether nobody wants the responses any more."""


@dataclass(slots=True, eq=False)
class _Live:
    request: CascadeRequest
    generation: Generation
    sender: Sender
    meter: RequestMeter
    lock: Lock = field(default_factory=Lock)
    is_finished: bool = False
    is_cancelled: bool = False
    last_sent: float = field(default_factory=time.monotonic)

    def cancel(self) -> None:
        self.is_cancelled = True
        self.generation.cancel()

    def send(self, values: Mapping[str, Any]) -> None:
        """Send, unless the request is finished; a heartbeat may come too late."""
        with self.lock:
            if not self.is_finished:
                self.last_sent = time.monotonic()
                self.sender.send(values)

    def is_deserted(self) -> bool:
        """Whether nobody waits for the responses any more."""
        # To ask about a request that is being finished on another thread brings the whole server down.
        with self.lock:
            return not self.is_finished and self.sender.is_cancelled()

    def finish(self, error: Exception | None = None) -> None:
        token = self.request.request_token
        with self.lock:
            self.is_finished = True
            if error is not None and not token:
                self.sender.fail(error)
                return
            try:
                if error is not None:
                    self.sender.send(failure(token, error))
            except Exception:  # without its end the server would wait for this request for ever
                log.exception("the end of a request could not be sent as it was")
            self.sender.finish()


class LiveRequests:
    """All requests that an engine is working on or that wait for it.

    The engine bounds them: it refuses a request when too many wait.

    Args:
        engine: Does the work.
        registry: Where its metrics are published; None publishes none.
    """

    def __init__(self, engine: Engine, registry: Registry | None = None) -> None:
        limits = engine.limits
        self._engine = engine
        self._metrics = CascadeMetrics(registry, since=engine.statistics())
        self._publishes = True
        self._live: set[_Live] = set()
        self._lock = Lock()
        self._closing = Event()
        # One more than can live: a finished request may still be leaving its thread.
        threads = limits.max_batch_size + limits.max_queue_size + 1
        self._forwarders = ThreadPoolExecutor(threads, thread_name_prefix="spec-cascade-forward")
        # By this thread, and nothing else changes before the first request: no other thread has anything to tell a
        # server that is still loading the model.
        self._publish()
        self._watch = Thread(target=self._look_after, name="spec-cascade-watch", daemon=True)
        self._watch.start()

    def start(self, request: CascadeRequest, sender: Sender) -> None:
        """Give a request to the engine; its responses go to ``sender``.

        Raises:
            SpecCascadeError: The engine does not take it; the sender was not used.
        """
        meter = self._metrics.meter(request.generation.rule or self._engine.limits.default_rule)
        try:
            generation = self._engine.submit(request.generation)
        except EngineError as error:
            raise UnavailableError("the engine is shutting down") from error
        live = _Live(request, generation, sender, meter)
        with self._lock:
            self._live.add(live)
        self._forwarders.submit(self._forward, live)

    def cancel(self, request_token: str) -> None:
        """Cancel the request with this token, if it is still live."""
        with self._lock:
            named = [live for live in self._live if live.request.request_token == request_token]
        for live in named:
            live.cancel()

    def close(self) -> None:
        """Close the engine, answer what was live, end the threads."""
        self._closing.set()
        self._engine.close()
        self._forwarders.shutdown()
        self._watch.join()
        self._metrics.close()

    def _forward(self, live: _Live) -> None:
        error: Exception | None = None
        try:
            error = self._send_rounds(live)
        except Exception as defect:  # whatever it is, the client must get an answer and the request must end
            log.exception("a request failed while its responses were sent")
            live.generation.cancel()
            live.meter.fail()
            error = EngineError("the server failed; see its log")
            error.__cause__ = defect
        finally:
            with self._lock:
                self._live.discard(live)
            live.finish(error)

    def _send_rounds(self, live: _Live) -> Exception | None:
        """Send each round until the last; return the error that ended the request, if one did."""
        builder = ResponseBuilder(live.request)
        for output in live.generation:
            live.meter.add(output)
            if output.finish_reason is FinishReason.CANCELLED:
                return None if live.is_cancelled else UnavailableError("the engine is shutting down")
            if output.finish_reason is FinishReason.ERROR:
                return EngineError(output.error or "the engine failed")
            values = builder.add(output)
            if values is not None:
                live.send(values)
        return None

    def _look_after(self) -> None:
        while not self._closing.wait(WATCH_SECONDS):
            self._publish()
            with self._lock:
                all_live = list(self._live)
            for live in all_live:
                self._look_at(live)

    def _publish(self) -> None:
        try:
            self._metrics.publish(self._engine.statistics())
        except Exception:  # whatever the server makes of it, requests go on, and the next counts may get through
            if self._publishes:
                log.exception("the metrics could not be published; this is logged once until they can be")
            self._publishes = False
        else:
            self._publishes = True

    @staticmethod
    def _look_at(live: _Live) -> None:
        token = live.request.request_token
        try:
            if live.is_cancelled:
                return
            if not token:
                if live.is_deserted():
                    live.cancel()
            elif time.monotonic() - live.last_sent > HEARTBEAT_SECONDS:
                live.send(heartbeat(token))
        except Exception:  # one request must not end the watch over the others
            log.exception("a live request could not be looked at")
