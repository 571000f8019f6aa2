"""An engine that cannot answer is not served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.errors import EngineError
from spec_cascade.serving.first_request import answer_first_request
from tests.unit.serving.scripted import FAIL, ScriptedEngine, ScriptedGeneration


class FailingEngine(ScriptedEngine):
    """Fails in its second round, whatever it is asked."""

    def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        return super().submit(replace(request, sampling=replace(request.sampling, seed=FAIL)))


def test_it_leaves_the_engine_free() -> None:
    engine = ScriptedEngine()
    answer_first_request(engine)
    assert (engine.live, engine.closed.is_set()) == (0, False)


def test_an_engine_that_fails_is_closed_and_named() -> None:
    engine = FailingEngine()
    with pytest.raises(EngineError, match="did not answer its first request: the GPU is on fire"):
        answer_first_request(engine)
    assert engine.closed.is_set()
