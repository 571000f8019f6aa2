"""Settings and how they reach the workers; what workers leave behind so that it is known that they did."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from spec_cascade.engines.tensorrt_llm import injection
from spec_cascade.engines.tensorrt_llm.delivery import SINGLE_PROCESS, deliver
from spec_cascade.engines.tensorrt_llm.hook import FILE_NAME, install_hook
from spec_cascade.engines.tensorrt_llm.receipts import require_receipts, write_receipt
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from spec_cascade.engines.tensorrt_llm.startup import CREATOR, VARIABLE
from spec_cascade.errors import ConfigError, EngineError
from tests.unit.trtllm.playing import make, part, playing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

SETTINGS = SamplerSettings(default_rule="token_v3:alpha=0.5", draft_length=3)
STOCK = SamplerSettings(fallback="stock")


@pytest.fixture
def creator() -> Iterator[ModuleType]:
    with playing("s15"):
        yield importlib.import_module(CREATOR)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("default_rule", ""),
        ("draft_mode", "both"),
        ("draft_length", -1),
        ("draft_length", True),
        ("vocab_size", 0),
        ("fallback", "none"),
        ("receipts", ""),
        ("report_key", "key"),
    ],
)
def test_settings_that_are_none_are_refused_by_name(field, value):
    with pytest.raises(ConfigError) as caught:
        SamplerSettings(**{field: value})
    assert caught.value.field.endswith(field)


def test_an_unknown_setting_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"settings\.draft_lenght .*did you mean 'draft_length'"):
        SamplerSettings.from_json('{"draft_lenght": 3}')


def test_every_rank_has_to_have_left_its_receipt(tmp_path):
    directory = str(tmp_path)
    with pytest.raises(EngineError, match="rank 0, 1 of 2 verifies without our rules"):
        require_receipts(directory, 2)
    write_receipt(directory, rank=1, contract="trtllm-1.2.1")
    with pytest.raises(EngineError, match="rank 0 of 2"):
        require_receipts(directory, 2)
    write_receipt(directory, rank=0, contract="trtllm-1.2.1")
    write_receipt(directory, rank=0, contract="trtllm-1.2.1")
    assert require_receipts(directory, 2) == "trtllm-1.2.1"
    write_receipt(directory, rank=1, contract="trtllm-1.3.0rc2-rc3")
    with pytest.raises(EngineError, match="different versions"):
        require_receipts(directory, 2)


def test_a_receipt_that_cannot_be_left_stops_the_worker(tmp_path):
    with pytest.raises(EngineError, match="rank 3 cannot leave its receipt"):
        write_receipt(str(tmp_path / "missing"), rank=3, contract="any")


def test_a_sampler_leaves_the_receipt_of_its_rank(creator, tmp_path):
    injection.activate(SamplerSettings(receipts=str(tmp_path)))
    make(creator, rank=1)
    (path,) = tmp_path.iterdir()
    receipt = json.loads(path.read_text(encoding="utf-8"))
    assert receipt == {"rank": 1, "process": os.getpid(), "contract": injection.active().matched.contract.name}


@pytest.fixture
def clean_environment(monkeypatch):
    for name in (SINGLE_PROCESS, VARIABLE):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("clean_environment")
def test_for_one_gpu_the_settings_stay_in_this_process(creator):
    delivery = deliver(SETTINGS, world_size=1)
    assert os.environ[SINGLE_PROCESS] == "1"
    assert VARIABLE not in os.environ
    with pytest.raises(EngineError, match="in another process"):
        delivery.confirm()
    make(creator)
    assert delivery.confirm() == injection.active().matched.contract.name
    delivery.close()
    delivery.close()
    assert injection.active() is None
    assert not Path(delivery.settings.receipts).exists()


@pytest.mark.usefixtures("clean_environment")
def test_a_delivery_that_fails_leaves_nothing_behind(creator):
    del part("pyexecutor.sampler").TorchSampler.process_draft_tokens
    with pytest.raises(EngineError, match="process_draft_tokens"):
        deliver(SETTINGS, world_size=1)
    assert injection.active() is None
    delivery = deliver(STOCK, world_size=1)
    make(creator)
    assert delivery.confirm() is None
    delivery.close()


@pytest.mark.usefixtures("clean_environment")
def test_for_several_gpus_they_travel_in_a_variable_that_is_taken_back(monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(EngineError, match=r"2 GPUs need the start-up hook, and .* is absent: run spec-cascade doctor"):
        deliver(SETTINGS, world_size=2)
    assert install_hook() == tmp_path / FILE_NAME
    delivery = deliver(SETTINGS, world_size=2)
    sent = SamplerSettings.from_json(os.environ[VARIABLE])
    assert sent == delivery.settings
    assert sent.default_rule == SETTINGS.default_rule
    for rank in range(2):
        write_receipt(sent.receipts, rank=rank, contract="trtllm-1.2.1")
    assert delivery.confirm() == "trtllm-1.2.1"
    delivery.close()
    assert VARIABLE not in os.environ


@pytest.mark.usefixtures("clean_environment")
def test_for_several_gpus_it_has_to_come_before_tensorrt_llm(creator, monkeypatch):
    monkeypatch.setattr("spec_cascade.engines.tensorrt_llm.delivery.hook_state", lambda: "installed")
    with pytest.raises(EngineError, match="tensorrt_llm was imported before the settings for its workers were set"):
        deliver(SETTINGS, world_size=2)
    assert VARIABLE not in os.environ
