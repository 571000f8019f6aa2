"""An engine that cannot answer is not served."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.errors import ConfigError, EngineError
from spec_cascade.rules import parse_rule
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


class ParticularEngine(ScriptedEngine):
    """Has no use for one rule."""

    def submit(self, request: GenerationRequest) -> ScriptedGeneration:
        if request.rule == parse_rule("chow:alpha=0.5"):
            raise ConfigError("deferral_rule", str(request.rule), "a rule that keeps its meaning")
        return super().submit(request)


def test_a_default_rule_that_means_nothing_to_the_engine_is_refused_before_a_client_asks() -> None:
    engine = ParticularEngine()
    with pytest.raises(ConfigError, match="chow"):
        answer_first_request(engine, parse_rule("chow:alpha=0.5"))
    assert engine.closed.is_set()
    answer_first_request(ParticularEngine(), parse_rule("strict"))


def test_an_engine_that_fails_is_closed_and_named() -> None:
    engine = FailingEngine()
    with pytest.raises(EngineError, match="did not answer its first request: the GPU is on fire"):
        answer_first_request(engine)
    assert engine.closed.is_set()
