"""`spec-cascade drafter make`, whole and killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import CohereConfig, CohereForCausalLM

from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines import open_engine
from spec_cascade.errors import ConfigError
from spec_cascade_build.build import build
from spec_cascade_build.drafter.distil import Distiller
from spec_cascade_build.drafter.made import MadeDrafter, write_weights
from spec_cascade_build.drafter.make import make
from spec_cascade_build.drafter.student import Head, check_head
from spec_cascade_build.errors import BuildError
from tests.unit.build.checkpoints import save_checkpoint, write_pair
from tests.unit.drafter.recipes import TEXT, TRAINING, pair_of, quiet, shard, weights

COMMAND = str(Path(sys.executable).with_name("spec-cascade"))


def test_a_drafter_is_made_built_and_served(place: Path) -> None:
    pair = pair_of(place)
    directory, made = make(pair, None, quiet())
    assert directory == place / "drafter"
    assert made == MadeDrafter.read(directory)
    assert made.figures["steps"] == 60
    manifest = build(pair, place / "engine", quiet()).manifest
    assert (manifest.vocabulary.drafter_logits, manifest.vocabulary.target_logits) == (200, 300)
    engine = open_engine(place / "engine")
    try:
        # A length that is asked for is kept, whatever drafting costs here.
        request = GenerationRequest(prompt_ids=(1, 5, 6), sampling=SamplingParams(max_tokens=64), draft_length=4)
        statistics = list(engine.submit(request))[-1].statistics
    finally:
        engine.close()
    assert statistics is not None
    assert statistics.num_accepted_draft_tokens > 0


def test_training_raises_the_agreement_on_text_that_was_not_learnt(place: Path) -> None:
    pair = pair_of(place)
    make(pair, place / "work", quiet())
    state = torch.load(place / "work" / "training.pt", weights_only=True)
    overlaps = [overlap for overlap, _ in state["agreements"].values()]
    assert overlaps[-1] > overlaps[0] + 0.05


@pytest.mark.parametrize("killed_at", ["text/*/00000.safetensors", "training.pt"])
def test_a_kill_and_a_second_call_make_the_same_drafter_as_no_kill(
    place: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Many steps behind the first checkpoint, for the kill to come in time.
    pair = pair_of(place, training={**TRAINING, "steps": 200, "on_policy_steps": 15, "on_policy_tokens": 3})
    directory, made = make(pair, place / "whole", quiet())
    expected = weights(directory)
    shutil.rmtree(directory)

    command = [COMMAND, "drafter", "make", str(pair), "--work", str(place / "killed")]
    # Another number of threads would add up in another order; what surrounds this test may have set one.
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, cwd=place, env={**os.environ, **threads})
    try:
        _await(place / "killed", killed_at, process)
    finally:
        process.kill()
        process.wait()
    assert not directory.exists()

    written = shard(place / "killed", 0).stat().st_mtime_ns
    steps = _watched(monkeypatch)
    _, again = make(pair, place / "killed", quiet())
    assert again == made
    found = weights(directory)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    # What was there is not done again.
    assert shard(place / "killed", 0).stat().st_mtime_ns == written
    assert min(steps, default=200) >= (10 if killed_at == "training.pt" else 0)


def _watched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that are trained from now on."""
    steps: list[int] = []
    train = Distiller._step

    def watched(self: Distiller, step: int) -> None:
        steps.append(step)
        train(self, step)

    monkeypatch.setattr(Distiller, "_step", watched)
    return steps


def _await(work: Path, pattern: str, process: subprocess.Popen[bytes]) -> None:
    while not list(work.glob(pattern)):
        assert process.poll() is None, "the making ended before it could be killed"
        time.sleep(0.002)


def test_the_same_seed_makes_the_same_drafter_and_another_seed_another(place: Path) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        pair = pair_of(place, seed=seed, training={**TRAINING, "steps": 5, "evaluate_every": 5, "warmup": 2})
        directory, _ = make(pair, place / f"work-{len(list(place.glob('work-*')))}", quiet())
        return weights(directory)

    first, same, other = made(3), made(3), made(4)
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("by", ["spread", "importance"])
def test_layers_can_be_chosen_by_a_method(place: Path, by: str) -> None:
    pair = pair_of(place, layers={"count": 3, "by": by}, head=None, training={**TRAINING, "steps": 5})
    directory, made = make(pair, None, quiet())
    assert (made.layers[0], made.layers[-1], len(made.layers)) == (0, 3, 3)
    assert not (directory / "head.safetensors").exists()
    assert build(pair, place / "engine", quiet()).manifest.vocabulary.drafter_logits == 300


def test_the_last_steps_can_be_on_the_drafters_own_words(place: Path) -> None:
    training = {**TRAINING, "steps": 6, "evaluate_every": 2, "on_policy_steps": 4, "on_policy_tokens": 3}
    plain = {**training, "on_policy_steps": 0}
    directory, _ = make(pair_of(place, training=plain), place / "plain", quiet())
    without = weights(directory)
    directory, _ = make(pair_of(place, training=training), place / "own", quiet())
    assert not all(torch.equal(without[name], tensor) for name, tensor in weights(directory).items())


def test_the_last_steps_can_be_on_the_overlap_itself(place: Path) -> None:
    training = {**TRAINING, "steps": 20, "overlap_steps": 20, "warmup": 0}
    _, made = make(pair_of(place, training=training), place / "work", quiet())
    state = torch.load(place / "work" / "training.pt", weights_only=True)
    assert made.figures["overlap"] > state["agreements"][0][0] + 0.05


def test_dropout_of_the_target_changes_nothing_at_a_resume(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = place / "target" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "attention_dropout": 0.5}), encoding="utf-8")
    pair = pair_of(place, training={**TRAINING, "steps": 4, "warmup": 0, "evaluate_every": 2})
    directory, _ = make(pair, place / "whole", quiet())
    expected = weights(directory)
    train = Distiller._step

    def dying(self: Distiller, step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt
        train(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "_step", dying)
        with pytest.raises(KeyboardInterrupt):
            make(pair, place / "killed", quiet())
    make(pair, place / "killed", quiet())
    found = weights(directory)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_training_stops_when_nothing_better_comes(place: Path) -> None:
    hopeless = {**TRAINING, "steps": 50, "evaluate_every": 1, "patience": 3, "learning_rate": 10.0}
    _, made = make(pair_of(place, training=hopeless), None, quiet())
    assert made.figures["steps"] == made.figures["best_step"] + 3 < 50


def test_a_drafter_of_another_target_is_not_built(place: Path) -> None:
    pair = pair_of(place)
    make(pair, None, quiet())
    save_checkpoint(place / "target", seed=7)
    with pytest.raises(BuildError, match="was made from another target"):
        build(pair, place / "engine", quiet())


def test_a_pair_without_its_drafter_says_what_to_run(place: Path) -> None:
    with pytest.raises(BuildError, match=r"drafter has no drafter.json: run spec-cascade drafter make first"):
        build(pair_of(place), place / "engine", quiet())


def test_nothing_but_a_made_drafter_is_replaced(place: Path) -> None:
    (place / "drafter").mkdir()
    (place / "drafter" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BuildError, match="is not a made drafter"):
        make(pair_of(place), None, quiet())


def test_a_work_directory_whose_beginning_was_killed_is_begun_again(place: Path) -> None:
    (place / "work").mkdir()
    (place / "work" / ".key.json.partial").write_text("{", encoding="utf-8")
    make(pair_of(place), place / "work", quiet())


@pytest.mark.parametrize("pattern", ["text/*/00000.safetensors", "training.pt"])
def test_damaged_work_is_named(place: Path, pattern: str) -> None:
    make(pair_of(place), place / "work", quiet())
    (path,) = (place / "work").glob(pattern)
    path.write_bytes(b"damaged")
    with pytest.raises(BuildError, match=f"{path} is damaged: remove it"):
        make(pair_of(place), place / "work", quiet())


def test_a_made_drafter_without_one_of_its_files_is_not_built(place: Path) -> None:
    directory, _ = make(pair_of(place), None, quiet())
    next(directory.glob("model-*.safetensors")).unlink()
    with pytest.raises(BuildError, match=r"drafter is damaged: tensor .* has no counterpart"):
        build(pair_of(place), place / "engine", quiet())


def test_others_may_read_what_was_built(place: Path) -> None:
    directory, _ = make(pair_of(place), None, quiet())
    build(pair_of(place), place / "engine", quiet())
    files = [*directory.iterdir(), *(place / "engine" / "drafter").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {(place / "pair.yaml").stat().st_mode & 0o777}


@pytest.mark.parametrize("device", ["gpu", "cuda:77"])
def test_a_device_that_is_not_there_is_named(place: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device = '{device}' is not allowed"):
        make(pair_of(place), None, quiet(), device=device)


def test_a_wrong_recipe_is_refused_before_the_text_is_written(place: Path) -> None:
    with pytest.raises(ConfigError):
        make(pair_of(place, layers=[0, 9]), place / "work", quiet())
    assert not (place / "work" / "text").exists()


def test_a_work_directory_of_something_else_is_left_alone(place: Path) -> None:
    (place / "work").mkdir()
    (place / "work" / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(BuildError, match="was not begun by drafter make"):
        make(pair_of(place), place / "work", quiet())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"layers": [0, 4]}, "drafter.make.layers = [0, 4] is not allowed: must be layers that the target has: 0 to 3"),
        ({"layers": {"count": 9}}, "drafter.make.layers.count = 9 is not allowed: must be at most 4"),
        ({"layers": [3, 0]}, "must be at least one layer, in ascending order without repeats"),
        (
            {"training": {"steps": 5, "warmup": 6}},
            "drafter.make.training.warmup = 6 is not allowed: must",
        ),
        ({"text": {"answers": 0}}, "drafter.make.text[0].answers = 0 is not allowed: must be an integer >= 1"),
        ({"text": [TEXT, {"max_answer_tokens": 999}]}, "drafter.make.text[1].max_answer_tokens = 999 is not allowed"),
        ({"text": []}, "drafter.make.text = [] is not allowed: must be a mapping, or a list of them"),
        ({"seed": 2**31}, "drafter.make.seed = 2147483648 is not allowed: must be an integer in [0, 2**31)"),
        ({"text": {"answers": 1}}, "1 answers are too few"),
        ({"heads": 3}, "drafter.make.heads is not a field (did you mean 'head'?)"),
    ],
)
def test_a_wrong_recipe_names_the_field(place: Path, recipe: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, BuildError), match=re.escape(message)):
        make(pair_of(place, **recipe), None, quiet())


def test_a_target_that_changes_its_logits_behind_the_head_is_refused() -> None:
    config = CohereConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, logit_scale=0.1
    )
    target = CohereForCausalLM(config).eval()
    with pytest.raises(BuildError, match="CohereForCausalLM changes its head's logits"):
        check_head(target, Head.of(target, 64, None), torch.arange(8))


def test_only_a_drafter_that_is_made_is_made(place: Path) -> None:
    pair = write_pair(place / "pair.yaml")
    with pytest.raises(ConfigError, match="only such a drafter is made"):
        make(pair, None, quiet())


def test_the_card_says_what_the_drafter_is(place: Path) -> None:
    directory, made = make(pair_of(place, license="apache-2.0"), None, quiet())
    card = (directory / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(card.split("---")[1])["license"] == "apache-2.0"
    assert f"| {made.figures['overlap']:.3f} |" in card


def test_no_file_of_a_drafter_is_larger_than_it_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spec_cascade_build.drafter.made.MOST_BYTES", 1000)
    tensors = {f"t{i}": torch.arange(60.0) + i for i in range(12)}
    write_weights(tmp_path, tensors, None)
    assert max(path.stat().st_size for path in tmp_path.iterdir()) < 1000 + 600
    assert len(list(tmp_path.iterdir())) == 3
    found = weights(tmp_path)
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)
