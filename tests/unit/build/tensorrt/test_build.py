"""From a pair file to engines: what is checked before a command runs, and what is planned without weights."""

from __future__ import annotations

import io
import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.tensorrt.build import build_engines, check, dry_run
from spec_cascade_build.tensorrt.section import TensorrtSection
from tests.unit.build.checkpoints import save_checkpoint, tiny_tokenizer
from tests.unit.build.tensorrt.stage import LLAMA, STEPS

if TYPE_CHECKING:
    from spec_cascade_build.pair import Pair
    from tests.unit.build.tensorrt.stage import Stage

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB: dict[str, Any] = {
    "target": {"hub": "org/large", "revision": COMMIT},
    "drafter": {"hub": "org/small", "revision": COMMIT},
}
SECTION = TensorrtSection(examples="examples")


@pytest.fixture
def models(stage: Stage) -> Stage:
    """Two real checkpoints with tokenizers."""
    save_checkpoint(stage.root / "target")
    save_checkpoint(stage.root / "drafter", layers=1, seed=7)
    return stage


@pytest.fixture
def configs(stage: Stage) -> Stage:
    """The configurations of two models of the hub."""
    for name in ("large", "small"):
        directory = stage.root / "configs" / "org" / name
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    return stage


def printed(call: Any, stage: Stage, pair: Pair, *arguments: Any) -> str:
    out = io.StringIO()
    quiet = Console(file=io.StringIO())
    call(pair, SECTION, stage.root / "pair.yaml", *arguments, quiet, Console(file=out, width=100))
    return out.getvalue()


def test_the_tokenizer_is_put_beside_the_engines(models: Stage, console: Console) -> None:
    def build() -> Any:
        return build_engines(models.pair(), SECTION, models.root / "pair.yaml", models.output, console)

    first = build()
    assert first.ran == tuple(STEPS)
    assert {"tokenizer/tokenizer.json", "target/rank0.engine"} <= first.files.keys()
    for name, entry in first.files.items():
        assert type(entry).of(models.output / name) == entry
    before = (models.output / "tokenizer").stat().st_ino
    second = build()
    assert second.up_to_date
    assert second.files == first.files
    assert (models.output / "tokenizer").stat().st_ino == before
    assert not list(models.output.glob(".tokenizer*"))


def test_a_dry_run_prints_the_commands_of_the_build(models: Stage, console: Console) -> None:
    text = printed(dry_run, models, models.pair(), models.output, None)
    assert not models.output.exists()
    planned = [shlex.split(line.strip().partition(" ")[2]) for line in text.splitlines() if "  command  " in line]
    build_engines(models.pair(), SECTION, models.root / "pair.yaml", models.output, console)
    ran = [call["command"] for call in models.calls()]
    assert [command[-len(other) :] for command, other in zip(planned, ran, strict=True)] == ran


def test_tokenizers_that_differ_are_refused_before_a_command_runs(models: Stage, console: Console) -> None:
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    save_checkpoint(models.root / "drafter", tokenizer=other, layers=1)
    with pytest.raises(BuildError, match="do not share a vocabulary"):
        build_engines(models.pair(), SECTION, models.root / "pair.yaml", models.output, console)
    assert models.started() == []


def test_a_wrong_bound_names_the_pair_file(models: Stage, console: Console) -> None:
    section = TensorrtSection(examples="examples", tensor_parallel_size=3)
    with pytest.raises(PairError, match=r"pair\.yaml: tensorrt\.tensor_parallel_size = 3"):
        build_engines(models.pair(), section, models.root / "pair.yaml", models.output, console)


def test_types_that_paged_attention_lacks_are_refused(models: Stage, console: Console) -> None:
    pair = models.pair(dtype="float32")
    with pytest.raises(PairError, match=r"dtype = 'float32' .* must be bfloat16, or tensorrt\.dtype given"):
        build_engines(pair, SECTION, models.root / "pair.yaml", models.output, console)
    section = TensorrtSection(examples="examples", dtype="float16")
    result = build_engines(pair, section, models.root / "pair.yaml", models.output, console)
    assert result.engines["target"].dtype == "float16"


def test_nothing_is_fetched_where_nothing_could_be_built(
    stage: Stage, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(stage.root / "nothing"))
    with pytest.raises(BuildError, match="trtllm-build is not on PATH"):
        build_engines(stage.pair(**HUB), SECTION, stage.root / "pair.yaml", stage.output, console)


def test_a_pair_of_the_hub_is_checked_by_its_configurations(configs: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = configs.pair(**HUB)
    text = printed(check, configs, pair, configs.root / "configs")
    assert text == "tiny: both models can be converted and compiled, for 1 GPU(s)\n"
    monkeypatch.setenv("PATH", str(configs.root / "nothing"))
    assert "note: not on this machine: trtllm-build is not on PATH" in printed(
        check, configs, pair, configs.root / "configs"
    )


def test_a_dry_run_knows_where_a_model_of_the_hub_will_be(configs: Stage) -> None:
    text = printed(dry_run, configs, configs.pair(**HUB), configs.output, configs.root / "configs")
    assert f"/models--org--large/snapshots/{COMMIT} --output_dir=" in text
    assert not configs.output.exists()


def test_a_pair_that_the_engine_cannot_run_is_refused_by_its_file(configs: Stage) -> None:
    pair = configs.pair(**(HUB | {"drafter": {"prompt_lookup": {}}}))
    with pytest.raises(PairError, match=r"pair\.yaml: drafter = .* must be a checkpoint of its own"):
        printed(check, configs, pair, configs.root / "configs")
