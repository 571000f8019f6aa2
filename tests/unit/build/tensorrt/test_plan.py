"""The plan: which program converts which model, with which options, and which pairs are refused."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt.limits import check_pair
from tests.unit.build.tensorrt.stage import LLAMA, STEPS, write_checkpoint

if TYPE_CHECKING:
    from spec_cascade_build.tensorrt.plan import Plan
    from tests.unit.build.tensorrt.stage import Stage


def options(plan: Plan, name: str) -> list[str]:
    """What a step's command is given, without places."""
    step = next(step for step in plan.steps if step.name == name)
    return [word for word in step.command if word.startswith("--") and "/" not in word]


def test_both_models_are_converted_before_they_are_built(stage: Stage) -> None:
    plan = stage.plan()
    assert [step.name for step in plan.steps] == STEPS
    assert {step.name: step.needs for step in plan.steps} == {
        "convert-drafter": None,
        "convert-target": None,
        "build-drafter": "convert-drafter",
        "build-target": "convert-target",
    }


def test_only_the_target_takes_drafts(stage: Stage) -> None:
    plan = stage.plan()
    drafter, target = options(plan, "build-drafter"), options(plan, "build-target")
    assert set(target) - set(drafter) == {
        "--speculative_decoding_mode=draft_tokens_external",
        "--max_draft_len=5",
    }
    assert set(drafter) <= set(target)


def test_engines_are_built_for_in_flight_batching_reuse_and_rows(stage: Stage) -> None:
    assert set(options(stage.plan(), "build-drafter")) == {
        "--max_batch_size=4",
        "--max_input_len=512",
        "--max_seq_len=512",
        "--max_num_tokens=2048",
        "--max_beam_width=1",
        "--kv_cache_type=paged",
        "--remove_input_padding=enable",
        "--gpt_attention_plugin=auto",
        "--context_fmha=enable",
        "--use_paged_context_fmha=enable",
        "--tokens_per_block=32",
        "--gemm_plugin=auto",
        "--gather_generation_logits",
        "--logits_dtype=float32",
        "--workers=1",
    }


@pytest.mark.parametrize(
    ("architecture", "script", "expected"),
    [
        ("LlamaForCausalLM", "models/core/llama/convert_checkpoint.py", ["--tp_size=2", "--workers=2"]),
        ("MistralForCausalLM", "models/core/llama/convert_checkpoint.py", ["--tp_size=2", "--workers=2"]),
        ("Qwen3ForCausalLM", "models/core/qwen/convert_checkpoint.py", ["--tp_size=2", "--workers=2"]),
        ("Gemma3ForCausalLM", "models/core/gemma/convert_checkpoint.py", ["--world-size=2", "--ckpt-type=hf"]),
    ],
)
def test_every_family_has_its_script_and_its_spelling(
    stage: Stage, architecture: str, script: str, expected: list[str]
) -> None:
    write_checkpoint(stage.root / "target", LLAMA | {"architectures": [architecture]})
    plan = stage.plan(tensor_parallel_size=2, workers=2)
    step = plan.steps[STEPS.index("convert-target")]
    assert step.program == (sys.executable, str(stage.examples / script))
    assert set(options(plan, "convert-target")) == {"--dtype=bfloat16", *expected}
    assert step.produces == ("config.json", "rank0.safetensors", "rank1.safetensors")


def test_the_dtype_is_the_pairs_unless_the_section_has_its_own(stage: Stage) -> None:
    assert "--dtype=bfloat16" in options(stage.plan(), "convert-target")
    assert "--dtype=float16" in options(stage.plan(dtype="float16"), "convert-target")


def test_weights_alone_are_quantised_by_the_converter(stage: Stage) -> None:
    plan = stage.plan(quantise="int8", quantise_drafter="none")
    assert {"--use_weight_only", "--weight_only_precision=int8"} <= set(options(plan, "convert-target"))
    assert "--use_weight_only" not in options(plan, "convert-drafter")


def test_what_is_calibrated_is_quantised_by_quantize(stage: Stage) -> None:
    (stage.root / "texts").mkdir()
    plan = stage.plan(quantise="fp8", kv_cache="fp8", calibration_size=64, calibration_dataset="texts")
    step = plan.steps[STEPS.index("convert-target")]
    assert step.program[1] == str(stage.examples / "quantization/quantize.py")
    assert set(options(plan, "convert-target")) == {
        "--dtype=bfloat16",
        "--tp_size=1",
        "--qformat=fp8",
        "--calib_size=64",
        "--kv_cache_dtype=fp8",
    }
    assert f"--calib_dataset={stage.root / 'texts'}" in step.command


def test_awq_is_not_promised_more_texts_than_it_takes(stage: Stage) -> None:
    plan = stage.plan(quantise="int4_awq", quantise_drafter="fp8")
    assert "--calib_size=32" in options(plan, "convert-target")
    assert "--calib_size=512" in options(plan, "convert-drafter")
    assert "--calib_size=8" in options(stage.plan(quantise="int4_awq", calibration_size=8), "convert-target")


def test_a_data_set_of_the_hub_keeps_its_name(stage: Stage) -> None:
    step = stage.plan(quantise="nvfp4", calibration_dataset="org/texts").steps[0]
    assert "--calib_dataset=org/texts" in step.command


def test_paths_are_absolute_for_commands_run_elsewhere(stage: Stage) -> None:
    for step in stage.plan(timing_cache="timings").steps:
        for word in step.command:
            path = word.partition("=")[2]
            assert "/" not in path or path.startswith("/")
    assert stage.plan(timing_cache="timings").steps[-1].timing_cache == (
        stage.root / "timings" / "1.2.1" / "NVIDIA-H100-80GB-HBM3-compute-capability-9.0" / "tiny-target.cache"
    )


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"drafter": None, "defaults": {}}, r"drafter = 'none' .* must be a checkpoint of its own"),
        ({"drafter": {"prune": {"layers": [0]}}}, r"drafter = .*prune.* must be a checkpoint of its own"),
        ({"drafter": {"prompt_lookup": {}}}, r"drafter = .*prompt_lookup.* must be a checkpoint of its own"),
        ({"drafter": {"path": "small.gguf"}}, r"drafter = .*small\.gguf.* must be a checkpoint in safetensors"),
        ({"target": {"path": "large.gguf"}}, r"target = .*large\.gguf.* must be a checkpoint in safetensors"),
        (
            {"defaults": {"draft_length": 0, "max_draft_length": 0}},
            r"defaults\.max_draft_length = 0 .* must be an integer >= 1",
        ),
    ],
)
def test_a_pair_that_cannot_be_compiled_is_refused(stage: Stage, fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check_pair(stage.pair(**fields))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"max_input_len": 513}, r"tensorrt\.max_input_len = 513 .* <= defaults\.max_seq_len, which is 512"),
        ({"max_num_tokens": 31}, r"tensorrt\.max_num_tokens = 31 .* >= 32"),
        (
            {"tensor_parallel_size": 3},
            r"tensorrt\.tensor_parallel_size = 3 .* a divisor of the drafter's 8 attention heads",
        ),
    ],
)
def test_bounds_that_do_not_fit_are_refused(stage: Stage, section: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        stage.plan(**section)


def test_tokens_for_a_whole_round_of_all_requests_are_demanded(stage: Stage) -> None:
    stage.defaults |= {"max_batch_size": 16}
    with pytest.raises(ConfigError, match=r"tensorrt\.max_num_tokens = 95 .* >= 96: defaults\.max_batch_size x"):
        stage.plan(max_num_tokens=95)
    assert "--max_num_tokens=96" in options(stage.plan(max_num_tokens=96), "build-target")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"architectures": ["PhiForCausalLM"]}, "the target is a PhiForCausalLM: engine: tensorrt converts Llama"),
        (
            {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"model_type": "gemma3_text"}},
            "is a Gemma3ForConditionalGeneration: .*reads text models only: save its text_config's model on its own",
        ),
        ({"quantization_config": {"quant_method": "awq"}}, r"is quantised already: give the checkpoint"),
        ({"architectures": []}, "names no architecture"),
        ({"vocab_size": None}, "lacks vocab_size or num_attention_heads"),
    ],
)
def test_a_checkpoint_that_cannot_be_converted_is_refused(stage: Stage, config: dict[str, Any], told: str) -> None:
    write_checkpoint(stage.root / "target", LLAMA | config)
    with pytest.raises(BuildError, match=told):
        stage.plan()


def test_a_checkpoint_of_model_optimizer_is_known_by_its_second_file(stage: Stage) -> None:
    (stage.root / "drafter" / "hf_quant_config.json").write_text(json.dumps({"quantization": {}}), encoding="utf-8")
    with pytest.raises(BuildError, match=r"the drafter in .* is quantised already"):
        stage.plan()


def test_a_directory_without_a_configuration_is_refused(stage: Stage) -> None:
    (stage.root / "target" / "config.json").unlink()
    with pytest.raises(BuildError, match=r"the target's .*config\.json names no architecture"):
        stage.plan()


def test_planning_needs_neither_torch_nor_tensorrt_llm() -> None:
    script = (
        "import sys, spec_cascade_build.tensorrt.run, spec_cascade_build.tensorrt.plan\n"
        "import spec_cascade_build.tensorrt.section, spec_cascade_build.tensorrt.read_back\n"
        "print(sorted({'torch', 'transformers', 'tensorrt', 'tensorrt_llm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
