"""What an engine's `config.json` must say; each value that does not hold is told with the option that sets it."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade_build.tensorrt.read_back import EngineConfigError, read_engine, read_engines
from tests.unit.build.tensorrt.stage import set_stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spec_cascade_build.tensorrt.plan import Plan
    from spec_cascade_build.tensorrt.section import Role

REMOVED = object()
PLUGINS = "build_config.plugin_config"
MODEL = "pretrained_config"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """The plan of two engines that are there."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stage = set_stage(tmp_path_factory.mktemp("built"), monkeypatch)
        stage.section |= {"quantise": "fp8", "kv_cache": "fp8", "tensor_parallel_size": 2}
        stage.build()
        yield stage.plan()


def changed(built: Plan, role: Role, directory: Path, changes: dict[str, Any]) -> Path:
    """A copy of an engine whose `config.json` says something else at dotted keys."""
    engine = directory / role
    shutil.copytree(built.output / role, engine)
    config = json.loads((engine / "config.json").read_text(encoding="utf-8"))
    for key, value in changes.items():
        *path, last = key.split(".")
        inner = config
        for name in path:
            inner = inner[name]
        if value is REMOVED:
            del inner[last]
        else:
            inner[last] = value
    (engine / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return engine


def test_engines_that_hold_are_described(built: Plan) -> None:
    directories: dict[Role, Path] = {role: built.output / role for role in built.expected}
    facts = read_engines(directories, built.expected)
    target = facts["target"]
    assert (target.quant_algo, target.kv_cache_quant_algo, target.dtype) == ("FP8", "FP8", "bfloat16")
    assert (target.tensor_parallel_size, target.vocab_size, target.logits) == (2, 1000, 1000)
    assert (target.max_draft_len, facts["drafter"].max_draft_len) == (5, 0)
    assert not target.needs_chunked_context


def test_rows_are_as_wide_as_the_ranks_make_them(built: Plan, tmp_path: Path) -> None:
    engine = changed(built, "target", tmp_path, {f"{MODEL}.vocab_size": 1001})
    assert read_engine(engine, built.expected["target"]).logits == 1002


def test_longer_inputs_than_one_forward_takes_need_chunks(built: Plan, tmp_path: Path) -> None:
    engine = changed(built, "target", tmp_path, {"build_config.max_seq_len": 4096})
    assert read_engine(engine, built.expected["target"]).needs_chunked_context


@pytest.mark.parametrize(
    "changes",
    [
        {"build_config.kv_cache_type": "paged"},
        {f"{MODEL}.mapping.cp_size": REMOVED},
        {"build_config.use_strip_plan": REMOVED},
        {"build_config.max_draft_len": 8},
        {"build_config.max_batch_size": 64},
        {f"{MODEL}.vocab_size": 1024},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_does_as_well_is_taken(built: Plan, tmp_path: Path, changes: dict[str, Any]) -> None:
    read_engine(changed(built, "target", tmp_path, changes), built.expected["target"])


REFUSALS: list[tuple[Role, str, Any, str]] = [
    ("target", "build_config.speculative_decoding_mode", 1, "--speculative_decoding_mode=draft_tokens_external"),
    # The executor reads a word as none.
    (
        "target",
        "build_config.speculative_decoding_mode",
        "draft_tokens_external",
        "--speculative_decoding_mode=draft_tokens_external",
    ),
    ("target", "build_config.speculative_decoding_mode", REMOVED, "--speculative_decoding_mode"),
    ("drafter", "build_config.speculative_decoding_mode", 2, "leave --speculative_decoding_mode out"),
    ("target", "build_config.max_draft_len", 4, "add --max_draft_len=5"),
    ("target", "build_config.max_draft_len", REMOVED, "add --max_draft_len=5"),
    ("drafter", "build_config.kv_cache_type", "CONTINUOUS", "add --kv_cache_type=paged"),
    ("target", "build_config.kv_cache_type", REMOVED, "add --kv_cache_type=paged"),
    ("target", f"{PLUGINS}.paged_kv_cache", None, "add --kv_cache_type=paged"),
    ("target", f"{PLUGINS}.remove_input_padding", False, "add --remove_input_padding=enable"),
    ("drafter", f"{PLUGINS}.gpt_attention_plugin", None, "add --gpt_attention_plugin=auto"),
    ("target", f"{PLUGINS}.context_fmha", False, "add --context_fmha=enable"),
    ("drafter", f"{PLUGINS}.use_paged_context_fmha", False, "add --use_paged_context_fmha=enable"),
    ("target", f"{PLUGINS}.use_paged_context_fmha", 1, "add --use_paged_context_fmha=enable"),
    ("target", f"{PLUGINS}.tokens_per_block", 128, "add --tokens_per_block=32"),
    ("target", "build_config.max_beam_width", 4, "add --max_beam_width=1"),
    ("drafter", "build_config.gather_generation_logits", False, "add --gather_generation_logits"),
    ("target", "build_config.gather_generation_logits", 0, "add --gather_generation_logits"),
    ("target", f"{MODEL}.logits_dtype", "float16", "add --logits_dtype=float32"),
    ("target", f"{MODEL}.vocab_size", 999, "convert the checkpoint again"),
    ("drafter", "build_config.max_batch_size", 3, "add --max_batch_size=4"),
    ("drafter", "build_config.max_seq_len", 511, "add --max_seq_len=512"),
    # Its drafts come on top.
    ("target", "build_config.max_seq_len", 512, "add --max_seq_len=512"),
    ("target", "build_config.max_num_tokens", None, "add --max_num_tokens=2048"),
    ("target", f"{MODEL}.dtype", "float16", "add --dtype=bfloat16"),
    ("target", f"{MODEL}.mapping.tp_size", 1, "convert for 2 ranks"),
    ("target", f"{MODEL}.mapping.pp_size", 2, "convert for 2 ranks"),
    ("target", f"{MODEL}.quantization.quant_algo", None, "convert it again with this tensorrt.quantise"),
    ("target", f"{MODEL}.quantization.kv_cache_quant_algo", None, "convert it with --kv_cache_dtype=fp8"),
    ("target", "build_config.use_strip_plan", True, "leave --strip_plan out"),
    ("drafter", "version", "1.3.0", "must be 0.17 to 1.2.x"),
    ("drafter", "version", REMOVED, "must be 0.17 to 1.2.x"),
    ("drafter", "version", "1.2.0", "build it again with --force"),
]


@pytest.mark.parametrize(("role", "key", "value", "advice"), REFUSALS)
def test_a_value_that_does_not_hold_is_told_with_what_sets_it(
    built: Plan, tmp_path: Path, role: Role, key: str, value: Any, advice: str
) -> None:
    engine = changed(built, role, tmp_path, {key: value})
    with pytest.raises(EngineConfigError) as caught:
        read_engine(engine, built.expected[role])
    first, *lines = str(caught.value).splitlines()
    assert first == f"the {role}'s engine is not one to decode with, by {engine / 'config.json'}:"
    # Removed and null values of the version are told as the value null.
    shown = "missing" if value is REMOVED and key != "version" else json.dumps(None if value is REMOVED else value)
    assert len(lines) == 1
    assert lines[0].startswith(f"  - {key} is {shown}") or lines[0].startswith(f"  - {key} is {value},")
    assert advice in lines[0]


def test_everything_that_does_not_hold_is_told_at_once(built: Plan, tmp_path: Path) -> None:
    changes = {"build_config.max_beam_width": 4, "build_config.gather_generation_logits": False}
    with pytest.raises(EngineConfigError, match=r"(?s)gather_generation_logits.*|max_beam_width") as caught:
        read_engine(changed(built, "target", tmp_path, changes), built.expected["target"])
    assert len(str(caught.value).splitlines()) == 3


def test_engines_of_two_versions_do_not_go_together(built: Plan, tmp_path: Path) -> None:
    from dataclasses import replace

    expected: dict[Role, Any] = {role: replace(entry, version=None) for role, entry in built.expected.items()}
    directories: dict[Role, Path] = {
        "drafter": changed(built, "drafter", tmp_path, {"version": "1.1.0"}),
        "target": built.output / "target",
    }
    with pytest.raises(EngineConfigError, match=r"the drafter by 1\.1\.0 and the target by 1\.2\.1: build both"):
        read_engines(directories, expected)


@pytest.mark.parametrize(
    ("text", "told"),
    [(None, "cannot be read"), ("{", "cannot be read"), ("[]", "is not an engine's"), ("{}", "is not an engine's")],
)
def test_a_file_that_is_no_engines_is_told(built: Plan, tmp_path: Path, text: str | None, told: str) -> None:
    engine = changed(built, "target", tmp_path, {})
    if text is None:
        (engine / "config.json").unlink()
    else:
        (engine / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(EngineConfigError, match=told):
        read_engine(engine, built.expected["target"])


def test_a_rank_without_its_engine_is_told(built: Plan, tmp_path: Path) -> None:
    engine = changed(built, "target", tmp_path, {f"{PLUGINS}.manage_weights": True})
    (engine / "rank1.engine").unlink()
    with pytest.raises(EngineConfigError) as caught:
        read_engine(engine, built.expected["target"])
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  - rank0_managed_weights.safetensors is missing",
        "  - rank1.engine is missing",
        "  - rank1_managed_weights.safetensors is missing",
    ]
