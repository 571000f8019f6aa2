"""`spec-cascade build` of a pair from its file to its manifest, on a stage that plays TensorRT-LLM's programs."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.engines.manifest import Manifest
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.pair_error import PairError
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_tokenizer, write_pair
from tests.unit.build.tensorrt.pairs import HUB, move_to_hub_cache, pair_file, play_hub
from tests.unit.build.tensorrt.stage import STEPS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from tests.unit.build.tensorrt.stage import Stage


@pytest.fixture
def models(stage: Stage) -> Stage:
    """The stage, with two real checkpoints and their tokenizers."""
    save_checkpoint(stage.root / "target")
    save_checkpoint(stage.root / "drafter", layers=1, seed=3)
    return stage


def test_a_build_ends_with_a_manifest(models: Stage, tmp_path: Path, console: Console) -> None:
    result = build(pair_file(tmp_path), tmp_path / "out", console)
    manifest = Manifest.read(tmp_path / "out")
    manifest.check(tmp_path / "out")
    assert (result.manifest, result.up_to_date) == (manifest, False)
    assert (manifest.engine, manifest.target.dtype, manifest.drafter.kind) == ("tensorrt", "bfloat16", "model")
    found = manifest.vocabulary
    assert (found.vocab_size, found.target_logits, found.drafter_logits) == (VOCAB, VOCAB, VOCAB)
    assert found.eos_token_ids == (2,)
    assert {"target/config.json", "drafter/config.json", "tokenizer/tokenizer.json"} <= manifest.files.keys()
    assert manifest.versions == {"tensorrt_llm": "1.2.1", "gpu": "NVIDIA H100 80GB HBM3, compute capability 9.0"}


def test_what_is_there_is_left_alone(models: Stage, tmp_path: Path, console: Console) -> None:
    path, out = pair_file(tmp_path), tmp_path / "out"
    build(path, out, console)
    before = {file: file.stat().st_ino for file in (out / "tokenizer", out / "manifest.json")}
    assert build(path, out, console).up_to_date
    assert models.started() == STEPS
    assert {file: file.stat().st_ino for file in before} == before
    assert sorted(entry.name for entry in out.iterdir()) == [
        ".tensorrt-build",
        "build",
        "drafter",
        "manifest.json",
        "target",
        "tokenizer",
    ]
    assert not build(path, out, console, force=True).up_to_date
    assert models.started() == [*STEPS, *STEPS]


def _pair(defaults: dict[str, Any]) -> Callable[[Path], object]:
    return lambda root: pair_file(root, defaults)


def _json(name: str, **values: Any) -> Callable[[Path], object]:
    def change(root: Path) -> None:
        path = root / "target" / name
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")

    return change


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (_pair({"rule": "token_v3:alpha=0.8"}), lambda manifest: manifest.defaults.rule == "token_v3:alpha=0.8"),
        (_pair({"draft_mode": "argmax"}), lambda manifest: manifest.defaults.draft_mode == "argmax"),
        (_pair({"max_queue_size": 7}), lambda manifest: manifest.defaults.max_queue_size == 7),
        (_json("generation_config.json", eos_token_id=[1, 2]), lambda m: m.vocabulary.eos_token_ids == (1, 2)),
    ],
    ids=["rule", "draft mode", "queue", "ends of answers"],
)
def test_what_only_the_manifest_says_is_written_without_compiling(
    models: Stage,
    tmp_path: Path,
    console: Console,
    change: Callable[[Path], object],
    seen: Callable[[Manifest], bool],
) -> None:
    path, out = pair_file(tmp_path), tmp_path / "out"
    first = build(path, out, console)
    assert not seen(first.manifest)
    change(tmp_path)
    second = build(path, out, console)
    assert not second.up_to_date
    assert seen(Manifest.read(out))
    assert second.manifest.key != first.manifest.key
    assert models.started() == STEPS
    assert build(path, out, console).up_to_date


def test_a_changed_chat_template_is_written_as_a_whole_tokenizer(
    models: Stage, tmp_path: Path, console: Console
) -> None:
    path, out = pair_file(tmp_path), tmp_path / "out"
    build(path, out, console)
    before = (out / "tokenizer").stat().st_ino
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    for role in ("target", "drafter"):
        tokenizer.save_pretrained(tmp_path / role, save_jinja_files=False)
        (tmp_path / role / "chat_template.jinja").unlink(missing_ok=True)
    assert not build(path, out, console).up_to_date
    written = json.loads((out / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written["chat_template"] == "{{ messages[0]['content'] }}"
    # Not written into the old directory, which somebody may be reading.
    assert (out / "tokenizer").stat().st_ino != before
    Manifest.read(out).check(out)
    assert models.started() == STEPS


def test_a_lost_manifest_and_a_damaged_tokenizer_are_written_again(
    models: Stage, tmp_path: Path, console: Console
) -> None:
    path, out = pair_file(tmp_path), tmp_path / "out"
    build(path, out, console)
    (out / "manifest.json").unlink()
    assert not build(path, out, console).up_to_date
    (out / "tokenizer" / "tokenizer.json").unlink()
    assert not build(path, out, console).up_to_date
    assert models.started() == STEPS
    Manifest.read(out).check(out)


def test_a_finished_directory_needs_no_weights(
    models: Stage, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = move_to_hub_cache(tmp_path, monkeypatch)
    out = tmp_path / "out"
    build(pair_file(tmp_path, **HUB), out, console)
    for place in places.values():
        (place / "model.safetensors").unlink()
    assert build(pair_file(tmp_path, **HUB), out, console).up_to_date
    # Both checkpoints were converted already.
    assert not build(pair_file(tmp_path, {"max_draft_length": 4}, **HUB), out, console).up_to_date
    assert models.started() == [*STEPS, "build-target"]
    changed = pair_file(tmp_path, tensorrt={"examples": "examples", "quantise_drafter": "int8"}, **HUB)
    with pytest.raises(BuildError, match=r"org/drafter has no \.safetensors file"):
        build(changed, out, console)


def test_only_what_is_converted_is_fetched_and_the_tokenizer_whole(
    models: Stage, tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = "{{ messages[0]['content'] }}"
    (tmp_path / "target" / "chat_template.jinja").write_text(template, encoding="utf-8")
    fetched, out = play_hub(tmp_path, monkeypatch), tmp_path / "out"
    build(pair_file(tmp_path, **HUB), out, console)
    written = json.loads((out / "tokenizer" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert written["chat_template"] == template
    shutil.rmtree(fetched)
    changed = pair_file(tmp_path, tensorrt={"examples": "examples", "quantise_drafter": "int8"}, **HUB)
    build(changed, out, console)
    assert [path.parts[-4] for path in fetched.rglob("*.safetensors")] == ["models--org--drafter"]
    assert models.started() == [*STEPS, "convert-drafter", "build-drafter"]


def test_another_vocabulary_is_refused_before_anything_is_compiled(
    models: Stage, tmp_path: Path, console: Console
) -> None:
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    save_checkpoint(tmp_path / "drafter", layers=1, tokenizer=other)
    with pytest.raises(BuildError, match="target and drafter do not share a vocabulary"):
        build(pair_file(tmp_path), tmp_path / "out", console)
    assert models.started() == []


@pytest.mark.parametrize("role", ["target", "drafter"])
def test_too_few_logits_are_refused_before_anything_is_compiled(
    models: Stage, tmp_path: Path, console: Console, role: str
) -> None:
    save_checkpoint(tmp_path / role, vocab=VOCAB - 1)
    with pytest.raises(BuildError, match=f"the {role} has {VOCAB - 1} logits for the {VOCAB} ids"):
        build(pair_file(tmp_path), tmp_path / "out", console)
    assert models.started() == []


def test_nothing_is_fetched_where_nothing_could_be_built(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    path = pair_file(tmp_path, tensorrt=None, **HUB)
    with pytest.raises(BuildError) as caught:
        build(path, tmp_path / "out", console)
    assert str(caught.value).startswith("engine: tensorrt cannot be built here: trtllm-build is not on PATH")
    assert str(caught.value).endswith(". spec-cascade build --check and --dry-run work without")


def test_another_engine_does_not_take_the_place_of_this_one(models: Stage, tmp_path: Path, console: Console) -> None:
    out = tmp_path / "out"
    build(pair_file(tmp_path), out, console)
    pytorch = write_pair(tmp_path / "other.yaml")
    told = "out holds an engine for 'tensorrt', and the pair is for 'pytorch': remove it or choose another place"
    with pytest.raises(BuildError, match=told):
        build(pytorch, out, console, force=True)
    # Nor of one that is being built for the first time.
    (out / "manifest.json").unlink()
    with pytest.raises(BuildError, match=told):
        build(pytorch, out, console)
    assert (out / "build" / "timing").is_dir()
    build(pytorch, tmp_path / "embedded", console)
    with pytest.raises(BuildError, match="embedded holds an engine for 'pytorch', and the pair is for 'tensorrt'"):
        build(pair_file(tmp_path), tmp_path / "embedded", console)


def test_types_that_paged_attention_lacks_are_refused(models: Stage, tmp_path: Path, console: Console) -> None:
    with pytest.raises(PairError, match=r"dtype = 'float32' .* must be bfloat16, or tensorrt\.dtype given"):
        build(pair_file(tmp_path, dtype="float32"), tmp_path / "out", console)
    path = pair_file(tmp_path, dtype="float32", tensorrt={"examples": "examples", "dtype": "float16"})
    assert build(path, tmp_path / "out", console).manifest.target.dtype == "float16"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drafter": {"prompt_lookup": {}}}, "drafter = {'prompt_lookup': {}} is not allowed: must be a model"),
        ({"compile": True}, "compile = True is not allowed: must be left out: the engine 'tensorrt' compiles for no"),
        ({"tensorrt": {"jobs": 0}}, "tensorrt.jobs = 0 is not allowed: must be an integer >= 1"),
        (
            {"engine": "pytorch"},
            "tensorrt = {'max_num_tokens': 512, 'examples': 'examples'} is not allowed: must be left out: the engine "
            "is 'pytorch'",
        ),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = pair_file(tmp_path, **change)
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert str(caught.value).startswith(f"{path}: {message}")
