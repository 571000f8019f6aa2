"""`--check` and `--dry-run` of a pair of `engine: tensorrt`: without a GPU, without weights, without TensorRT-LLM."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from spec_cascade_build import checking
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair_error import PairError
from tests.unit.build.checkpoints import save_checkpoint, tiny_tokenizer
from tests.unit.build.tensorrt.pairs import COMMIT, HUB, move_to_hub_cache, pair_file
from tests.unit.build.tensorrt.stage import LLAMA, STEPS

if TYPE_CHECKING:
    from tests.unit.build.tensorrt.stage import Stage

PUBLISHED = Path(__file__).parents[1] / "tensorrt_llm" / "checkpoints"


def checked(path: Path, configs: Path | None = None) -> list[str]:
    """What a check prints."""
    out = io.StringIO()
    checking.check(path, configs, Console(file=io.StringIO()), Console(file=out))
    return out.getvalue().splitlines()


def planned(path: Path, output: Path, configs: Path | None = None, *, force: bool = False) -> str:
    """What a dry run prints."""
    out = io.StringIO()
    checking.dry_run(path, output, configs, Console(file=io.StringIO()), Console(file=out), force=force)
    return out.getvalue()


def hub_configs(root: Path, **changes: dict[str, Any]) -> Path:
    """The configurations of both models of the hub, with changes by role."""
    for role in ("target", "drafter"):
        directory = root / "configs" / "org" / role
        directory.mkdir(parents=True, exist_ok=True)
        config = LLAMA | changes.get(role, {})
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return root / "configs"


def test_a_check_says_what_it_did_not_look_at(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, configs = pair_file(tmp_path, **HUB), hub_configs(tmp_path, drafter={"model_type": "mixtral"})
    first, *notes = checked(path, configs)
    assert first == "tiny: the pair file, its rule and what the engines are built for are right"
    assert [note.partition(":")[0] for note in notes] == ["note", "note"]
    assert "of the drafter, whose model_type is 'mixtral', neither max_position_embeddings nor" in notes[0]
    assert "the tokenizers were not compared: there is no tokenizer.json for both" in notes[1]
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "note: it cannot be built here: trtllm-build is not on PATH" in "\n".join(checked(path, configs))


def test_published_models_of_two_vocabularies_are_told_apart_by_what_is_there(stage: Stage, tmp_path: Path) -> None:
    models = {"target": {"hub": "meta-llama/Llama-3.1-8B-Instruct"}, "drafter": {"hub": "Qwen/Qwen3-0.6B"}}
    note = checked(pair_file(tmp_path, **models), PUBLISHED)[1]
    assert "the tokenizers were not compared" in note
    assert "(logits are 128256 wide for the target and 151936 for the drafter)" in note


def test_tokenizers_that_are_there_are_compared(stage: Stage, tmp_path: Path) -> None:
    configs = hub_configs(tmp_path)
    tiny_tokenizer().save_pretrained(configs / "org" / "target")
    tiny_tokenizer().save_pretrained(configs / "org" / "drafter")
    path = pair_file(tmp_path, **HUB)
    assert len(checked(path, configs)) == 1
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    other.save_pretrained(configs / "org" / "drafter")
    with pytest.raises(BuildError, match="target and drafter do not share a vocabulary"):
        checked(path, configs)


@pytest.mark.parametrize(
    ("defaults", "section", "configs", "told"),
    [
        ({"max_seq_len": 400000}, {}, {}, "defaults.max_seq_len = 400000 is not allowed: must be at most 4096, the dr"),
        (
            {"max_seq_len": 4096},
            {},
            {"target": {"max_position_embeddings": 2048}},
            "defaults.max_seq_len = 4096 is not allowed: must be at most 2048, the target's max_position_embeddings",
        ),
        (
            {},
            {"tensor_parallel_size": 3},
            {},
            "tensorrt.tensor_parallel_size = 3 is not allowed: must be a divisor or a multiple of the drafter's 2 ",
        ),
        (
            {},
            {"tensor_parallel_size": 8},
            {"target": {"intermediate_size": 100}},
            "tensorrt.tensor_parallel_size = 8 is not allowed: must be a divisor of the target's intermediate_size, 10",
        ),
        (
            {},
            {"tensor_parallel_size": 16},
            {},
            "tensorrt.tensor_parallel_size = 16 is not allowed: must be a divisor of the drafter's 8 attention heads",
        ),
        (
            {},
            {},
            {"target": {"vocab_size": 1024, "eos_token_id": 1001}},
            "drafter = '1000 ids' is not allowed: must be a model that has a row for id 1001, which ends answers",
        ),
        ({}, {"max_num_tokens": 16}, {}, "tensorrt.max_num_tokens = 16 is not allowed"),
    ],
    ids=["length", "target's length", "kv heads", "intermediate", "heads", "ends", "tokens"],
)
def test_what_the_build_would_refuse_is_refused(
    stage: Stage,
    tmp_path: Path,
    defaults: dict[str, Any],
    section: dict[str, Any],
    configs: dict[str, dict[str, Any]],
    told: str,
) -> None:
    path = pair_file(tmp_path, defaults, tensorrt={"examples": "examples"} | section, **HUB)
    with pytest.raises(PairError) as caught:
        checked(path, hub_configs(tmp_path, **configs))
    assert str(caught.value).startswith(f"{path}: {told}")


def test_a_dry_run_prints_the_commands_of_the_build(stage: Stage, tmp_path: Path, console: Console) -> None:
    save_checkpoint(tmp_path / "target")
    save_checkpoint(tmp_path / "drafter", layers=1, seed=3)
    path, out = pair_file(tmp_path), tmp_path / "out"
    text = planned(path, out)
    assert not out.exists()
    assert text.splitlines()[-1] == "tiny: nothing was run and nothing was written"
    commands = [shlex.split(line.strip().partition(" ")[2]) for line in text.splitlines() if "  command  " in line]
    build(path, out, console)
    ran = [call["command"] for call in stage.calls()]
    assert [command[-len(other) :] for command, other in zip(commands, ran, strict=True)] == ran
    for force, state in ((False, "up to date"), (True, "to do (asked for)")):
        text = planned(path, out, force=force)
        assert [line for line in text.splitlines() if line in [f"{step}: {state}" for step in STEPS]] == [
            f"{step}: {state}" for step in STEPS
        ]
    assert stage.started() == STEPS


def test_a_dry_run_by_configs_names_the_places_of_the_build(
    stage: Stage, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path / "target")
    save_checkpoint(tmp_path / "drafter", layers=1, seed=3)
    shared = tmp_path / "configs" / "org"
    for role in ("target", "drafter"):
        (shared / role).mkdir(parents=True)
        (shared / role / "config.json").write_bytes((tmp_path / role / "config.json").read_bytes())
    places = move_to_hub_cache(tmp_path, monkeypatch)
    path, out = pair_file(tmp_path, **HUB), tmp_path / "out"
    text = planned(path, out, tmp_path / "configs")
    assert str(tmp_path / "configs") not in text
    assert all(f"--model_dir={place} " in text for place in places.values())
    build(path, out, console)
    converted = [call["command"] for call in stage.calls() if call["step"].startswith("convert")]
    assert [shlex.join(command) in text for command in converted] == [True, True]


def test_a_branch_by_configs_is_told_to_be_no_known_commit(stage: Stage, tmp_path: Path) -> None:
    path = pair_file(tmp_path, **HUB | {"target": {"hub": "org/target", "revision": "main"}})
    text = planned(path, tmp_path / "out", hub_configs(tmp_path))
    assert "note: which commit main of org/target is, --configs does not say" in text
    assert "/models--org--target/snapshots/commit-of-main" in text
    assert f"/models--org--drafter/snapshots/{COMMIT}" in text
