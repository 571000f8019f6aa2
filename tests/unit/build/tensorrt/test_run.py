"""Steps run in their order and side by side, and leave two engines, logs and timings."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.build.tensorrt.stage import LLAMA, STEPS, Building, write_checkpoint

if TYPE_CHECKING:
    from tests.unit.build.tensorrt.stage import Events, Stage

GPU = "NVIDIA-H100-80GB-HBM3-compute-capability-9.0"


def test_a_build_leaves_two_engines_and_says_what_they_are(stage: Stage) -> None:
    result = stage.build()
    assert result.ran == tuple(STEPS)
    assert not result.up_to_date
    target, drafter = result.engines["target"], result.engines["drafter"]
    assert (target.max_draft_len, target.max_seq_len, drafter.max_seq_len) == (5, 512 + 5, 512)
    assert target.version == "1.2.1"
    assert result.versions == {"tensorrt_llm": "1.2.1", "gpu": "NVIDIA H100 80GB HBM3, compute capability 9.0"}
    assert {"target/config.json", "target/rank0.engine", "drafter/config.json", "drafter/rank0.engine"} <= set(
        result.files
    )
    for name, entry in result.files.items():
        assert type(entry).of(stage.output / name) == entry
    assert sorted(path.name for path in stage.output.iterdir()) == [".tensorrt-build", "build", "drafter", "target"]
    assert list((stage.output / "build" / "partial").iterdir()) == []


def test_one_command_at_a_time(stage: Stage) -> None:
    stage.build(jobs=1)
    assert stage.happened() == [f"{what} {step}" for step in STEPS for what in ("start", "end")]


def test_independent_steps_run_side_by_side_and_nothing_waits_for_what_it_does_not_need(
    stage: Stage, events: Events
) -> None:
    for step in ("convert-drafter", "convert-target"):
        stage.let_wait(step)
    building = Building(stage, jobs=2)
    assert {events.next(), events.next()} == {"convert-drafter started", "convert-target started"}
    stage.let_go("convert-target")
    # The drafter's checkpoint is still not there.
    assert events.next() == "build-target started"
    stage.let_go("convert-drafter")
    assert sorted(building.done().ran) == sorted(STEPS)
    happened = stage.happened()
    for role in ("drafter", "target"):
        assert happened.index(f"end convert-{role}") < happened.index(f"start build-{role}")


def test_what_a_command_printed_is_in_its_log(stage: Stage) -> None:
    stage.wish("convert-target", "say", "caf\u00e9 of logs")
    stage.build()
    for step in STEPS:
        first, *rest = stage.log(step).splitlines()
        assert first.startswith("$ ")
        assert rest[0] == f"this is {step}"
    assert "caf\u00e9 of logs" in stage.log("convert-target")


def test_what_a_command_leaves_in_its_directory_goes_with_it(stage: Stage) -> None:
    stage.build()
    for call in stage.calls():
        assert call["directory"] == str(stage.output / "build" / "partial" / call["step"])


def test_timings_are_handed_from_build_to_build(stage: Stage) -> None:
    stage.section["timing_cache"] = "timings"
    stage.build()
    cache = stage.root / "timings" / "1.2.1" / GPU / "tiny-target.cache"
    assert cache.read_text(encoding="utf-8") == "timed\n"
    shutil.rmtree(stage.output)
    stage.build()
    assert cache.read_text(encoding="utf-8") == "timed\ntimed\n"
    assert [path.name for path in cache.parent.iterdir() if path.suffix != ".cache"] == []


def test_timings_of_one_gpu_are_not_handed_to_another(stage: Stage) -> None:
    stage.section["timing_cache"] = "timings"
    stage.build()
    stage.set_gpu("NVIDIA A100-SXM4-80GB", (8, 0))
    assert stage.build().versions["gpu"] == "NVIDIA A100-SXM4-80GB, compute capability 8.0"
    other = stage.root / "timings" / "1.2.1" / "NVIDIA-A100-SXM4-80GB-compute-capability-8.0" / "tiny-target.cache"
    assert other.read_text(encoding="utf-8") == "timed\n"


def test_what_calibrates_is_among_the_versions(stage: Stage) -> None:
    assert stage.build(quantise="fp8", quantise_drafter="none").versions["nvidia-modelopt"] == "0.37.0"


@pytest.mark.parametrize(
    ("architecture", "section"),
    [
        ("Qwen3ForCausalLM", {"quantise": "int8", "tensor_parallel_size": 2, "workers": 2}),
        ("Gemma3ForCausalLM", {"quantise": "int4", "tensor_parallel_size": 2}),
        ("LlamaForCausalLM", {"quantise": "fp8", "kv_cache": "fp8", "gemm_plugin": "fp8", "dtype": "float16"}),
        ("LlamaForCausalLM", {"quantise": "nvfp4", "quantise_drafter": "int4_awq", "logits_dtype": "float16"}),
        ("MixtralForCausalLM", {"tokens_per_block": 64, "max_num_tokens": 256, "gemm_plugin": "disable"}),
    ],
)
def test_every_program_knows_the_options_that_it_is_given(
    stage: Stage, architecture: str, section: dict[str, Any]
) -> None:
    for whose in ("drafter", "target"):
        write_checkpoint(stage.root / whose, LLAMA | {"architectures": [architecture]}, whose.encode())
    result = stage.build(**section)
    assert result.engines["target"].architecture == architecture
