"""The swap: one name bound and given back, samplers adopted, and nothing half done."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.engines.tensorrt_llm import injection
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from spec_cascade.engines.tensorrt_llm.startup import CREATOR
from spec_cascade.errors import EngineError
from tests.unit.trtllm.playing import make, part, playing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

SETTINGS = SamplerSettings(default_rule="token_v3:alpha=0.5", draft_length=3)
STOCK = SamplerSettings(fallback="stock")


@pytest.fixture(params=["s1", "s15", "s2"])
def creator(request) -> Iterator[ModuleType]:
    with playing(request.param):
        yield importlib.import_module(CREATOR)


def test_importing_the_plugin_changes_nothing(creator):
    assert creator.instantiate_sampler is part("pyexecutor._util").instantiate_sampler
    assert injection.active() is None
    assert type(make(creator)).__name__ == "TorchSampler"


def test_active_it_makes_our_sampler_of_the_one_that_was_made(creator, monkeypatch):
    made = []
    util = part("pyexecutor._util")
    original = util.instantiate_sampler

    @functools.wraps(original)
    def remembering(*args, **kwargs):
        made.append(original(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(util, "instantiate_sampler", remembering)
    monkeypatch.setattr(creator, "instantiate_sampler", remembering)
    factory = injection.activate(SETTINGS)
    assert factory is creator.instantiate_sampler is injection.active()
    sampler = make(creator)
    stock = part("pyexecutor.sampler").TorchSampler
    assert type(sampler).__name__ == "CascadeSampler"
    assert isinstance(sampler, stock)
    # The one that TensorRT-LLM made, with its memory; not a second one.
    assert sampler is made[0]
    assert len(made) == 1
    assert sampler.store.new_tokens.shape[0] == sampler.max_tokens == 4
    injection.deactivate()
    assert creator.instantiate_sampler is remembering


def test_the_signature_that_others_see_stays(creator):
    before = inspect.signature(creator.instantiate_sampler)
    injection.activate(SETTINGS)
    assert inspect.signature(creator.instantiate_sampler) == before


def test_twice_is_once_and_other_settings_are_refused(creator):
    first = injection.activate(SETTINGS)
    assert injection.activate(SamplerSettings(default_rule="token_v3:alpha=0.5", draft_length=3)) is first
    with pytest.raises(EngineError, match="active with other settings"):
        injection.activate(SamplerSettings())
    with pytest.raises(EngineError, match="active with other settings"):
        injection.activate(SETTINGS, lambda _: None)
    assert injection.active() is first
    injection.deactivate()
    injection.deactivate()
    assert creator.instantiate_sampler is part("pyexecutor._util").instantiate_sampler
    assert injection.activate(SamplerSettings()) is not None


def test_whoever_receives_reports_by_a_method_is_known_again(creator):
    seen: list[Any] = []
    assert injection.activate(SETTINGS, seen.append) is injection.activate(SETTINGS, seen.append)


def test_only_rank_0_reports(creator):
    seen: list[Any] = []
    injection.activate(SETTINGS, seen.append)
    make(creator)._report(["a round"])
    make(creator, rank=1)._report(["the same"])
    assert seen == [["a round"]]


def test_a_broken_promise_stops_it_before_anything_is_changed(creator):
    before = creator.instantiate_sampler
    del part("pyexecutor.sampler").TorchSampler.process_draft_tokens
    with pytest.raises(EngineError, match=r"sampler\.TorchSampler\.process_draft_tokens: expected a method") as caught:
        injection.activate(SETTINGS)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value), "a worker's travels to its parent"
    assert creator.instantiate_sampler is before
    assert injection.active() is None


def test_or_leaves_the_stock_verifier_with_a_warning_where_its_user_allowed_that(creator, caplog):
    before = creator.instantiate_sampler
    del part("pyexecutor.sampler").TorchSampler.process_draft_tokens
    with caplog.at_level(logging.WARNING):
        assert injection.activate(STOCK) is None
    assert "TensorRT-LLM's own verifier decides" in caplog.text
    assert "TorchSampler.process_draft_tokens" in caplog.text
    assert creator.instantiate_sampler is before
    assert type(make(creator)).__name__ == "TorchSampler"


@pytest.mark.parametrize("rule", ["token_v4", "token_v3:alpha=7"])
def test_a_default_rule_that_is_none_is_refused_whatever_the_fallback(creator, rule):
    for fallback in ("error", "stock"):
        with pytest.raises(EngineError, match="the default rule:"):
            injection.activate(SamplerSettings(default_rule=rule, fallback=fallback))
    assert injection.active() is None


def test_a_default_rule_that_means_nothing_with_argmax_drafts_is_refused(creator):
    rule = "divergence:alpha=0.2,kind=kl"
    with pytest.raises(EngineError, match="keeps its meaning with argmax drafts"):
        injection.activate(SamplerSettings(default_rule=rule))
    assert injection.activate(SamplerSettings(default_rule=rule, draft_mode="sampled")) is not None


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"disable_overlap_scheduler": False}, "disable_overlap_scheduler"),
        ({"speculative_config": None}, "draft-target speculation"),
        ({"max_beam_width": 2}, "max_beam_width"),
        ({"enable_attention_dp": True}, "enable_attention_dp"),
        ({"cp_size": 2}, "context_parallel_size"),
    ],
)
def test_a_configuration_that_we_do_not_support_stops_the_engine_before_its_sampler_is_made(
    creator, changes, name, caplog, monkeypatch
):
    injection.activate(SETTINGS)
    asked = []
    monkeypatch.setattr(injection.active(), "original", _recording(injection.active().original, asked))
    with pytest.raises(EngineError, match=f"configuration is not supported: {name} "):
        make(creator, **changes)
    assert asked == []
    injection.deactivate()
    injection.activate(STOCK)
    with caplog.at_level(logging.WARNING):
        if name != "max_beam_width":  # drafts and beams are refused by TensorRT-LLM itself
            assert type(make(creator, **changes)).__name__ == "TorchSampler"
            assert name in caplog.text


def _recording(function, calls):
    @functools.wraps(function)
    def recorded(*args, **kwargs):
        calls.append((args, kwargs))
        return function(*args, **kwargs)

    return recorded


def test_another_sampler_than_tensorrt_llms_own_is_left_alone(creator, caplog, monkeypatch):
    class Special(part("pyexecutor.sampler").TorchSampler):
        """Somebody else's."""

    def specialising(function):
        @functools.wraps(function)
        def special(*args, **kwargs):
            sampler = function(*args, **kwargs)
            sampler.__class__ = Special
            return sampler

        return special

    for settings in (SETTINGS, STOCK):
        injection.activate(settings)
        monkeypatch.setattr(injection.active(), "original", specialising(injection.active().original))
        if settings is SETTINGS:
            with pytest.raises(EngineError, match="the sampler is a Special, not TensorRT-LLM's TorchSampler"):
                make(creator)
        else:
            with caplog.at_level(logging.WARNING):
                assert type(make(creator)) is Special
            assert "the sampler is a Special" in caplog.text
        creator.instantiate_sampler = part("pyexecutor._util").instantiate_sampler


def test_a_sampler_that_lacks_what_we_read_is_not_adopted(creator, monkeypatch):
    injection.activate(SETTINGS)
    original = injection.active().original

    @functools.wraps(original)
    def forgetful(*args, **kwargs):
        sampler = original(*args, **kwargs)
        del sampler.store
        return sampler

    monkeypatch.setattr(injection.active(), "original", forgetful)
    with pytest.raises(EngineError, match=r"TorchSampler\(\)\.store: expected an attribute"):
        make(creator)


def test_who_stands_in_our_place_already_is_respected_or_refused(creator):
    util = part("pyexecutor._util")
    creator.instantiate_sampler = lambda *args, **kwargs: util.instantiate_sampler(*args, **kwargs)
    with pytest.raises(EngineError, match=r"instantiate_sampler: expected the same as .*_util\.instantiate_sampler"):
        injection.activate(SETTINGS)
    creator.instantiate_sampler = _recording(util.instantiate_sampler, [])
    assert injection.activate(SETTINGS) is not None


def test_a_name_that_somebody_else_has_bound_since_is_not_given_back(creator):
    injection.activate(SETTINGS)
    ours = creator.instantiate_sampler
    creator.instantiate_sampler = theirs = _recording(ours, [])
    with pytest.raises(EngineError, match="was bound to"):
        injection.deactivate()
    assert creator.instantiate_sampler is theirs
    creator.instantiate_sampler = ours


def test_without_tensorrt_llm_it_is_refused_and_giving_back_is_nothing():
    injection.deactivate()
    assert injection.active() is None
    for settings in (SETTINGS, STOCK):
        with pytest.raises(EngineError, match="TensorRT-LLM is not installed"):
            injection.activate(settings)
