"""Requests to a scripted engine, and what was sent for each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.serving.live import LiveRequests
from spec_cascade.serving.parse import CascadeRequest
from tests.unit.serving.recording_registry import RecordingRegistry
from tests.unit.serving.scripted import ScriptedEngine


class RecordingSender:
    """Implements `live.Sender`; using it after its end is an error, as it is with the server's."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.error: Exception | None = None
        self.ended = threading.Event()
        self.client_gone = False

    def send(self, values: Any) -> None:
        assert not self.ended.is_set()
        self.sent.append(dict(values))

    def fail(self, error: Exception) -> None:
        assert not self.ended.is_set()
        self.error = error
        self.ended.set()

    def finish(self) -> None:
        assert not self.ended.is_set()
        self.ended.set()

    def is_cancelled(self) -> bool:
        assert not self.ended.is_set()
        return self.client_gone

    @property
    def rounds(self) -> list[dict[str, Any]]:
        return [values for values in self.sent if "output_ids" in values]


def request(seed: int, *, tokens: int = 5, stream: bool = True, token: str = "", **options: Any) -> CascadeRequest:
    sampling = SamplingParams(seed=seed, max_tokens=tokens)
    generation = GenerationRequest(prompt_ids=(5, 6, 7), sampling=sampling, **options)
    return CascadeRequest(
        generation=generation, stream=stream, return_token_sources=False, prompt_text="", request_token=token
    )


@contextmanager
def serving(registry: RecordingRegistry | None = None) -> Iterator[tuple[ScriptedEngine, LiveRequests]]:
    engine = ScriptedEngine()
    live = LiveRequests(engine, registry)
    try:
        yield engine, live
    finally:
        live.close()


def eventually(holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
