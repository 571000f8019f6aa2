"""What is there is skipped, what changed is done again, and a dry run says which."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade_build.tensorrt.survey import describe
from tests.unit.build.tensorrt.stage import STEPS, set_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.build.tensorrt.stage import Stage


def test_the_second_time_nothing_is_done(stage: Stage) -> None:
    first = stage.build()
    second = stage.build()
    assert second.up_to_date
    assert (second.engines, second.files, second.key) == (first.engines, first.files, first.key)
    assert stage.started() == STEPS
    assert "build-target: up to date" in stage.printed.getvalue()


def _defaults(**values: Any) -> Callable[[Stage], None]:
    return lambda stage: stage.defaults.update(values)


def _weights(whose: str) -> Callable[[Stage], None]:
    return lambda stage: (stage.root / whose / "model.safetensors").write_bytes(b"other")


def _script(stage: Stage) -> None:
    with (stage.examples / "models/core/llama/convert_checkpoint.py").open("a", encoding="utf-8") as file:
        file.write("# repaired\n")


@pytest.mark.parametrize(
    ("change", "ran", "told"),
    [
        (_defaults(max_draft_length=4), ["build-target"], "--max_draft_len was 5, is 4"),
        (_defaults(max_seq_len=256), ["build-drafter", "build-target"], "--max_input_len was 512, is 256"),
        (
            lambda stage: stage.section.update(quantise="int4", quantise_drafter="none"),
            ["convert-target", "build-target"],
            "--use_weight_only was not given, is given",
        ),
        (_weights("drafter"), ["convert-drafter", "build-drafter"], "its input model.safetensors is another"),
        (_weights("target"), ["convert-target", "build-target"], "its input checkpoint is another"),
        (_script, STEPS, "convert_checkpoint.py was "),
        (lambda stage: set_version(stage.root, "1.2.0"), STEPS, "TensorRT-LLM was 1.2.1, is 1.2.0"),
        (
            lambda stage: stage.set_gpu("NVIDIA L40S", (8, 9)),
            ["build-drafter", "build-target"],
            "GPU was NVIDIA H100 80GB HBM3, compute capability 9.0, is NVIDIA L40S, compute capability 8.9",
        ),
    ],
    ids=[
        "drafts",
        "length",
        "quantisation",
        "the drafter's weights",
        "the target's weights",
        "script",
        "version",
        "gpu",
    ],
)
def test_what_changed_is_done_again_and_nothing_else(
    stage: Stage, change: Callable[[Stage], None], ran: list[str], told: str
) -> None:
    first = stage.build()
    change(stage)
    assert told in describe(stage.plan())
    second = stage.build()
    assert second.ran == tuple(ran)
    assert second.key != first.key
    assert stage.build().up_to_date


def test_another_modelopt_calibrates_again_and_converts_nothing_else(stage: Stage) -> None:
    stage.section |= {"quantise": "fp8", "quantise_drafter": "none"}
    stage.build()
    set_version(stage.root, "0.38.0", "nvidia_modelopt")
    assert "ModelOpt was 0.37.0, is 0.38.0" in describe(stage.plan())
    assert stage.build().ran == ("convert-target", "build-target")


@pytest.mark.parametrize(
    "change",
    [
        lambda stage: (stage.root / "target" / "tokenizer.json").write_text('{"other": 1}'),
        lambda stage: stage.section.update(workers=2),
        lambda stage: stage.section.update(jobs=3),
        lambda stage: stage.section.update(timing_cache="timings"),
        lambda stage: os.utime(stage.output / "target" / "rank0.engine", (0, 0)),
        lambda stage: shutil.rmtree(stage.output / "build"),
    ],
    ids=["tokenizer", "workers", "jobs", "timing cache", "touched", "checkpoints deleted"],
)
def test_what_does_not_change_the_engines_changes_nothing(stage: Stage, change: Callable[[Stage], None]) -> None:
    stage.build()
    change(stage)
    assert stage.build().up_to_date


def test_checkpoints_that_were_deleted_are_made_again_for_an_engine_that_is_built_again(stage: Stage) -> None:
    stage.build()
    shutil.rmtree(stage.output / "build")
    assert "convert-target: not needed" in describe(stage.plan())
    stage.defaults["max_draft_length"] = 4
    assert stage.build().ran == ("convert-target", "build-target")


def test_a_damaged_engine_is_built_again(stage: Stage) -> None:
    stage.build()
    engine = stage.output / "target" / "rank0.engine"
    engine.write_text("x" * engine.stat().st_size, encoding="utf-8")
    assert "build-target: to do (rank0.engine is missing or was changed)" in describe(stage.plan())
    assert stage.build().ran == ("build-target",)


def test_force_does_everything(stage: Stage) -> None:
    stage.build()
    assert stage.build(force=True).ran == tuple(STEPS)


def test_a_directory_without_a_stamp_is_no_finished_one(stage: Stage) -> None:
    stage.build()
    (stage.output / "target" / "step.json").unlink()
    assert f"{stage.output / 'target'} was not finished by a build" in describe(stage.plan())
    assert stage.build().ran == ("build-target",)


def test_a_dry_run_prints_what_is_then_run(stage: Stage) -> None:
    stage.build()
    stage.defaults["max_draft_length"] = 4
    (stage.root / "drafter" / "model.safetensors").write_bytes(b"other")
    before = {path: path.stat().st_mtime_ns for path in stage.root.rglob("*") if path.is_file()}
    text = describe(stage.plan())
    assert {path: path.stat().st_mtime_ns for path in stage.root.rglob("*") if path.is_file()} == before

    blocks = dict(block.split(": ", 1) for block in text.split("\n\n") if "  command  " in block)
    planned = {
        name: shlex.split(block.partition("  command  ")[2])
        for name, block in blocks.items()
        if block.startswith("to do")
    }
    assert blocks["convert-target"].startswith("up to date")
    known = len(stage.calls())
    stage.build()
    ran = {call["step"]: call["command"] for call in stage.calls()[known:]}
    assert ran.keys() == planned.keys() == {"convert-drafter", "build-drafter", "build-target"}
    for name, command in ran.items():
        # What Python itself was started with is not among a script's arguments.
        assert planned[name][-len(command) :] == command
