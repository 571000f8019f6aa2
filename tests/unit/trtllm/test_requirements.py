"""Configurations that our rules cannot decide for are refused by name, whatever way they are told in."""

from __future__ import annotations

from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from spec_cascade.engines.tensorrt_llm.contract import Contract, load_contracts
from spec_cascade.engines.tensorrt_llm.requirements import environment_refusals, refusals, told

FORCED = "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"


class SamplerType(str, Enum):
    """As TensorRT-LLM's own: its members are strings, or once were plain ones."""

    AUTO = "auto"
    TORCH = "TorchSampler"
    CPP = "TRTLLMSampler"


class PlainSamplerType(Enum):
    """The same without being strings."""

    AUTO = "auto"
    CPP = "TRTLLMSampler"


def speculative(**fields: Any) -> SimpleNamespace:
    mode = SimpleNamespace(is_draft_target=lambda: True)
    return SimpleNamespace(
        **{
            "spec_dec_mode": mode,
            "max_concurrency": None,
            "draft_len_schedule": None,
            "acceptance_window": None,
            "_allow_chain_drafter": True,
            "_allow_greedy_draft_tokens": True,
            **fields,
        }
    )


def settings(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(
        **{
            "disable_overlap_scheduler": True,
            "sampler_type": SamplerType.AUTO,
            "guided_decoding_backend": None,
            "attn_backend": "TRTLLM",
            **fields,
        }
    )


def mapping(**sizes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"pp_size": 1, "cp_size": 1, "enable_attention_dp": False, **sizes})


def given(**changes: Any) -> dict[str, Any]:
    return {
        "speculative_config": speculative(),
        "settings": settings(),
        "mapping": mapping(),
        "max_beam_width": 1,
        **changes,
    }


@pytest.fixture(params=load_contracts(), ids=lambda table: table.name)
def contract(request) -> Contract:
    return request.param


def test_what_we_support_is_let_pass(contract):
    assert refusals(contract, given(), draft_mode="argmax") == []
    for kind in (SamplerType.TORCH, PlainSamplerType.AUTO, "TorchSampler"):
        assert refusals(contract, given(settings=settings(sampler_type=kind)), draft_mode="argmax") == []


def test_fields_that_a_version_does_not_have_yet_are_none(contract):
    bare = speculative()
    del bare.draft_len_schedule, bare.acceptance_window, bare.max_concurrency
    early = settings()
    del early.guided_decoding_backend, early.sampler_type
    assert refusals(contract, given(speculative_config=bare, settings=early), draft_mode="argmax") == []


@pytest.mark.parametrize(
    ("changes", "start", "end"),
    [
        ({"speculative_config": None}, "draft-target speculation is not told", "must be True"),
        (
            {
                "speculative_config": speculative(spec_dec_mode=SimpleNamespace(is_draft_target=lambda: False)),
            },
            "draft-target speculation = False is not allowed",
            "TorchSampler verifies no other kind of drafts of a model",
        ),
        (
            {"settings": settings(disable_overlap_scheduler=False)},
            "disable_overlap_scheduler = False is not allowed: must be True",
            "before our rules have decided",
        ),
        ({"max_beam_width": 2}, "max_beam_width = 2 is not allowed: must be 1", "beams are not drafted for"),
        ({"max_beam_width": True}, "max_beam_width = True is not allowed: must be 1", "beams are not drafted for"),
        (
            {"mapping": mapping(pp_size=2)},
            "pipeline_parallel_size = 2 is not allowed: must be 1",
            "decisions do not travel between pipeline stages",
        ),
        (
            {"mapping": mapping(cp_size=2)},
            "context_parallel_size = 2 is not allowed: must be 1",
            "each rank then holds a part of a sequence, and our rules ask for the whole of it",
        ),
        (
            {"mapping": mapping(enable_attention_dp=True)},
            "enable_attention_dp = True is not allowed: must be False",
            "each rank then has requests of its own, and only rank 0 reports",
        ),
        (
            {"settings": settings(sampler_type=SamplerType.CPP)},
            "sampler_type = 'TRTLLMSampler' is not allowed: must be 'auto' or 'TorchSampler'",
            "the C++ sampler has no verifier to replace",
        ),
        (
            {"settings": settings(sampler_type=PlainSamplerType.CPP)},
            "sampler_type = 'TRTLLMSampler' is not allowed",
            "the C++ sampler has no verifier to replace",
        ),
        (
            {"settings": settings(guided_decoding_backend="xgrammar")},
            "guided_decoding_backend = 'xgrammar' is not allowed: must be None",
            "a grammar would have to follow what our rules keep",
        ),
        (
            {"speculative_config": speculative(max_concurrency=4)},
            "max_concurrency = 4 is not allowed: must be None",
            "for good",
        ),
        (
            {"speculative_config": speculative(draft_len_schedule={1: 4})},
            "draft_len_schedule = {1: 4} is not allowed: must be None",
            "between rounds",
        ),
        (
            {"speculative_config": speculative(acceptance_window=10)},
            "acceptance_window = 10 is not allowed: must be None",
            "by the stock verifier's acceptance",
        ),
    ],
)
def test_what_we_do_not_support_is_refused_by_name_and_with_the_reason(contract, changes, start, end):
    (refusal,) = refusals(contract, given(**changes), draft_mode="argmax")
    assert refusal.startswith(start)
    assert refusal.endswith(end)


def test_several_reasons_are_all_told(contract):
    found = refusals(contract, given(max_beam_width=4, mapping=mapping(pp_size=2)), draft_mode="argmax")
    assert [refusal.partition(" = ")[0] for refusal in found] == ["max_beam_width", "pipeline_parallel_size"]


@pytest.mark.parametrize(
    ("changes", "drafts"),
    [
        ({}, "argmax"),
        ({"speculative_config": speculative(_allow_greedy_draft_tokens=False)}, "sampled"),
        ({"speculative_config": speculative(_allow_chain_drafter=False)}, "sampled"),
        ({"settings": settings(attn_backend="FLASHINFER")}, "sampled"),
    ],
)
def test_the_way_of_drafting_has_to_be_the_one_that_the_settings_name(contract, changes, drafts):
    other = {"argmax": "sampled", "sampled": "argmax"}[drafts]
    assert refusals(contract, given(**changes), draft_mode=drafts) == []
    (refusal,) = refusals(contract, given(**changes), draft_mode=other)
    assert refusal.startswith(f"draft_mode = {other!r} is not allowed: must be {drafts!r}")


def test_a_forced_acceptance_is_refused(contract, monkeypatch):
    for harmless in ("", "0"):
        monkeypatch.setenv(FORCED, harmless)
        assert environment_refusals(contract) == []
    monkeypatch.setenv(FORCED, "3")
    (refusal,) = refusals(contract, given(), draft_mode="argmax")
    assert refusal.startswith(f"{FORCED} = '3' is not allowed: must be unset or '0'")


def test_a_call_is_read_however_its_arguments_are_given():
    def maker(engine, pytorch_backend_config, mapping, max_batch_size, max_beam_width=1, *, speculative_config): ...

    found = told(maker, ("engine", "backend", "mapping", 8), {"speculative_config": "draft"})
    assert found["settings"] == found["pytorch_backend_config"] == "backend"
    assert (found["max_beam_width"], found["speculative_config"]) == (1, "draft")
    named = told(
        maker,
        (),
        {"engine": 1, "mapping": 2, "max_batch_size": 3, "speculative_config": 4, "pytorch_backend_config": 5},
    )
    assert named["settings"] == 5
