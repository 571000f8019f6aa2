"""The `tensorrt` section of a pair file: its defaults, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from spec_cascade_build.tensorrt.section import TensorrtSection


def test_nothing_has_to_be_written() -> None:
    section = TensorrtSection()
    assert (section.quantise, section.tensor_parallel_size, section.jobs) == ("none", 1, 1)
    assert section.dtype is None


def test_every_field_can_say_what_is_allowed() -> None:
    assert [name for name, field in TensorrtSection.model_fields.items() if not field.description] == []


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ({"kv_cache": "fp8"}, "'auto' where quantise is 'none'"),
        ({"kv_cache": "fp8", "quantise": "int8"}, "'auto' where quantise is 'int8'"),
        ({"gemm_plugin": "fp8"}, "a type that quantise has, which is 'none'"),
        ({"gemm_plugin": "nvfp4", "quantise": "fp8"}, "a type that quantise has, which is 'fp8'"),
        ({"kv_cache": "int8"}, "'auto' or 'fp8'"),
        ({"tokens_per_block": 48}, "32, 64 or 128"),
        ({"tensor_parallel_size": 0}, "greater than or equal to 1"),
        ({"jobs": "2"}, "valid integer"),
        ({"gpu": "H100"}, "Extra inputs"),
    ],
)
def test_a_section_that_cannot_be_compiled_is_refused(written: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TensorrtSection.model_validate(written)


def test_a_drafter_is_quantised_as_the_target_unless_it_says_otherwise() -> None:
    section = TensorrtSection(quantise="fp8", kv_cache="fp8", gemm_plugin="fp8")
    assert (section.quantisation("drafter"), section.kv_cache_of("drafter")) == ("fp8", "fp8")
    mixed = TensorrtSection(quantise="fp8", quantise_drafter="none", kv_cache="fp8", gemm_plugin="fp8")
    assert (mixed.quantisation("drafter"), mixed.kv_cache_of("drafter")) == ("none", "auto")
    assert (mixed.gemm_plugin_of("drafter"), mixed.gemm_plugin_of("target")) == ("auto", "fp8")
