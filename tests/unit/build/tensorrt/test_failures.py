"""A step that fails is told and costs nothing else; what is half done is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.read_back import EngineConfigError
from spec_cascade_build.tensorrt.run import run_plan
from tests.unit.build.tensorrt.stage import STEPS, Building, set_version

if TYPE_CHECKING:
    from rich.console import Console

    from tests.unit.build.tensorrt.stage import Events, Stage


def test_a_failure_names_the_step_the_status_and_the_last_lines(stage: Stage) -> None:
    lines = "\n".join(f"line {i}" for i in range(40))
    stage.wish("build-target", "say", lines)
    stage.wish("build-target", "fail", 3)
    with pytest.raises(BuildError) as caught:
        stage.build()
    told = str(caught.value)
    log = stage.output / "build" / "logs" / "build-target.log"
    assert told.startswith(f"build-target ended with exit status 3; its log {log} ends with:\n  line 25\n")
    assert told.endswith("  line 39")
    assert not (stage.output / "target").exists()


def test_what_was_done_before_a_failure_is_not_done_again(stage: Stage) -> None:
    stage.wish("build-drafter", "fail", 1)
    with pytest.raises(BuildError, match="build-drafter ended with exit status 1"):
        stage.build()
    assert stage.started() == ["convert-drafter", "convert-target", "build-drafter"]
    stage.forget("build-drafter", "fail")
    assert stage.build().ran == ("build-drafter", "build-target")


def test_a_step_beside_a_failed_one_is_let_end_and_no_other_begins(stage: Stage, events: Events) -> None:
    stage.wish("convert-drafter", "fail", 1)
    stage.let_wait("convert-target")
    building = Building(stage, jobs=2)
    assert {events.next(), events.next()} == {"convert-drafter started", "convert-target started"}
    stage.printed.wait_for("convert-drafter ended with exit status 1")
    stage.let_go("convert-target")
    with pytest.raises(BuildError, match="convert-drafter ended with exit status 1"):
        building.done()
    assert stage.started().count("build-target") == 0
    stage.forget("convert-drafter", "fail")
    assert stage.build().ran == ("convert-drafter", "build-drafter", "build-target")


def test_a_failure_that_users_know_is_explained(stage: Stage) -> None:
    stage.wish("build-drafter", "say", "ValueError: max_workers must be greater than 0")
    stage.wish("build-drafter", "fail", 1)
    with pytest.raises(BuildError, match=r"\(trtllm-build found no GPU\)"):
        stage.build()


def test_an_option_that_a_program_does_not_know_is_its_failure(stage: Stage) -> None:
    script = stage.examples / "models/core/llama/convert_checkpoint.py"
    text = script.read_text(encoding="utf-8")
    script.write_text(text.replace('"--dtype"', '"--type"'), encoding="utf-8")
    with pytest.raises(BuildError, match=r"exit status 2(.|\n)*unrecognized arguments: --dtype=bfloat16"):
        stage.build()


def test_a_command_that_wrote_too_little_has_failed(stage: Stage) -> None:
    stage.section["tensor_parallel_size"] = 2
    stage.wish("build-target", "forget", "rank1.engine")
    with pytest.raises(BuildError, match=r"build-target ended with exit status 0 and wrote no rank1\.engine"):
        stage.build()
    assert not (stage.output / "target").exists()
    stage.forget("build-target", "forget")
    assert stage.build().ran == ("build-target",)


def test_a_program_that_cannot_be_started_is_named(stage: Stage, console: Console) -> None:
    plan = stage.plan()
    builder = stage.root / "bin" / "trtllm-build"
    builder.chmod(0o644)
    assert plan.tools.builder == str(builder)
    told = r"build-drafter: .*/trtllm-build cannot be started: Permission denied"
    with pytest.raises(BuildError, match=told), run_plan(plan, console):
        pass


def test_an_older_engine_stays_until_the_new_one_is_whole(stage: Stage) -> None:
    stage.build()
    before = (stage.output / "target" / "config.json").read_text(encoding="utf-8")
    stage.defaults["max_draft_length"] = 4
    stage.wish("build-target", "fail", 1)
    with pytest.raises(BuildError):
        stage.build()
    assert (stage.output / "target" / "config.json").read_text(encoding="utf-8") == before


def test_a_manifest_does_not_vouch_for_engines_that_are_being_replaced(stage: Stage) -> None:
    stage.build()
    manifest = stage.output / "manifest.json"
    manifest.write_text("{}", encoding="utf-8")
    stage.build()
    assert manifest.exists()
    stage.defaults["max_draft_length"] = 4
    stage.wish("build-target", "fail", 1)
    with pytest.raises(BuildError):
        stage.build()
    assert not manifest.exists()


def test_a_directory_of_something_else_is_left_alone(stage: Stage) -> None:
    stage.output.mkdir(parents=True)
    (stage.output / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(BuildError, match="exists and is not a directory of TensorRT engines"):
        stage.build()
    assert [path.name for path in stage.output.iterdir()] == ["thesis.tex"]


def test_nothing_is_started_where_a_program_is_missing(stage: Stage) -> None:
    set_version(stage.root, "1.3.0")
    with pytest.raises(BuildError, match=r"TensorRT-LLM 1\.3\.0 is not supported"):
        stage.build()
    assert not stage.output.exists()


@pytest.mark.parametrize(("role", "field"), [("target", "quantise"), ("drafter", "quantise_drafter")])
def test_a_checkpoint_whose_engine_would_not_hold_is_refused_before_it_is_compiled(
    stage: Stage, role: str, field: str
) -> None:
    stage.section |= {"quantise": "none", "quantise_drafter": "none"} | {field: "int4_awq"}
    stage.wish(f"convert-{role}", "config", {"quantization.kv_cache_quant_algo": "FP8"})
    with pytest.raises(BuildError) as caught:
        stage.build()
    assert f"build-{role}" not in stage.started()
    first, line = str(caught.value).splitlines()
    path = stage.output / "build" / "checkpoints" / role / "config.json"
    assert first == f"the {role}'s checkpoint is not one to compile, by {path}:"
    assert line.startswith('  - quantization.kv_cache_quant_algo is "FP8", must be null, where quant_algo is W4A16_AWQ')
    assert f"set tensorrt.{field} to another" in line
    # Nothing is calibrated again for it.
    with pytest.raises(BuildError, match="is not one to compile"):
        stage.build()
    assert stage.started().count(f"convert-{role}") == 1


def test_an_fp8_kv_cache_of_fp8_weights_is_compiled(stage: Stage) -> None:
    stage.wish("convert-target", "config", {"quantization.kv_cache_quant_algo": "FP8"})
    assert stage.build(quantise="fp8").engines["target"].kv_cache_quant_algo == "FP8"


def test_engines_that_do_not_hold_are_told_and_not_built_again_for_it(stage: Stage) -> None:
    stage.wish("build-target", "config", {"build_config.plugin_config.use_paged_context_fmha": False})
    for _time in range(2):
        with pytest.raises(EngineConfigError, match="add --use_paged_context_fmha=enable"):
            stage.build()
    assert stage.started() == STEPS
