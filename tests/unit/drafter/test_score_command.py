"""``spec-cascade drafter score`` on tiny pairs: each verdict, the tables, the JSON, the plot, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import pytest
import torch
import typer
from safetensors.torch import save_file
from typer.testing import CliRunner

from spec_cascade.engines.manifest import Manifest
from spec_cascade.errors import ConfigError, SpecCascadeError
from spec_cascade_build.drafter import score_settings
from spec_cascade_build.drafter.conversation import read_prompts
from spec_cascade_build.drafter.score import score
from spec_cascade_build.drafter.score_command import score_command
from spec_cascade_build.drafter.score_prediction import LONGEST
from spec_cascade_build.drafter.score_settings import PROMPTS, ScoreSettings
from spec_cascade_build.drafter.timing import MeasuredCosts
from tests.built import build_tiny, make_tiny
from tests.unit.build.checkpoints import VOCAB, save_checkpoint, tiny_llama, tiny_tokenizer, write_pair

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import LlamaForCausalLM

QUICK = ("--tokens", "10", "--repetitions", "3")
ONE_RULE = ("--rule", "token_v3:alpha=0.8")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("SPEC_CASCADE_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("# not a prompt\nthe cat sat\n\nin the beginning\nthinking ahead\n")
    return path


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter of two of the target's four layers."""
    return build_tiny(tmp_path_factory.mktemp("score"), defaults={"rule": "strict", "max_seq_len": 200})


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drafter that is the target."""
    drafter = {"prune": {"layers": [0, 1, 2, 3]}}
    return build_tiny(tmp_path_factory.mktemp("twin"), drafter=drafter, defaults={"max_seq_len": 200})


def built(directory: Path, drafter: LlamaForCausalLM) -> Path:
    """An engine with a drafter of its own."""
    drafter.save_pretrained(directory / "small")
    tiny_tokenizer().save_pretrained(directory / "small")
    return build_tiny(directory, drafter={"path": "small"}, defaults={"max_seq_len": 200})


def run(*arguments: object) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command("score")(score_command)
    result = CliRunner().invoke(app, ["score", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def verdict(output: str, rule: str = "strict") -> str:
    return next(line.removeprefix(f"{rule}: ") for line in output.splitlines() if line.startswith(f"{rule}: "))


def test_the_tables_the_json_and_the_plot_of_a_pair(engine: Path, prompts: Path, tmp_path: Path):
    files = tmp_path / "sub"
    output = run(engine, "--prompts", prompts, *QUICK, "--json", files / "o.json", "--plot", files / "o.png")
    found: dict[str, Any] = json.loads((files / "o.json").read_text())
    assert found["format"] == 1
    assert {"machine", "versions", "date", "command", "engine", "settings", "costs"} < set(found)
    rules = {rule["name"]: rule for rule in found["rules"]}
    assert len(rules) > 20
    assert next(iter(rules)) == "strict"
    assert list(rules)[-1] == "greedy"
    # The figures of a rule, from the raw samples and costs.
    strict, costs = rules["strict"], found["costs"]
    places = [a for text in found["passages"] for a in text["strict"]]
    assert [len(text["strict"]) for text in found["passages"]] == [t["tokens"] - t["begin"] for t in found["passages"]]
    assert strict["acceptance"] == pytest.approx(sum(places) / len(places), abs=1e-4)
    assert strict["tokens_per_call"][0] == pytest.approx(1 + strict["acceptance"])
    draft, verify = costs["draft_by_temperature"]["1"], costs["verify"]["strict"]
    assert strict["speed_ups"][1] == pytest.approx(
        strict["tokens_per_call"][1] * (costs["score"][0] + verify[0]) / (2 * draft + costs["score"][2] + verify[2])
    )
    assert strict["best_draft_length"] == 1 + max(range(LONGEST), key=strict["speed_ups"].__getitem__)
    assert rules["drafter_only"]["acceptance"] > strict["acceptance"]
    assert {a for text in found["passages"] for a in text["greedy"]} <= {0.0, 1.0}
    for name, rule in rules.items():
        assert verdict(output, name) == rule["verdict"]
        assert [line for line in output.splitlines() if name in line and f"{rule['acceptance']:.3f}" in line]
    assert "tokens per call: 1 + sum over k" in output
    assert (files / "o.png").read_bytes().startswith(b"\x89PNG")


def test_a_made_drafter_agrees_better_than_the_layers_it_began_with(
    engine: Path, prompts: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    found = []
    for directory in (engine, make_tiny(tmp_path_factory.mktemp("made"))):
        run(directory, "--prompts", prompts, *QUICK, *ONE_RULE, "--json", tmp_path / "o.json")
        found.append(json.loads((tmp_path / "o.json").read_text())["rules"][0]["acceptance"])
    assert found[1] > found[0] + 0.05


def test_a_trimmed_head_is_read_from_the_engine(engine: Path, prompts: Path, tmp_path: Path):
    found = []
    for name, tokens in (("whole", VOCAB), ("few", VOCAB // 2)):
        directory = tmp_path / name
        shutil.copytree(engine, directory)
        save_file({"token_ids": torch.arange(tokens)}, directory / "drafter" / "head.safetensors")
        run(directory, "--prompts", prompts, *QUICK, *ONE_RULE, "--json", tmp_path / "o.json")
        found.append(json.loads((tmp_path / "o.json").read_text())["rules"][0]["acceptance"])
    run(engine, "--prompts", prompts, *QUICK, *ONE_RULE, "--json", tmp_path / "o.json")
    untrimmed = json.loads((tmp_path / "o.json").read_text())["rules"][0]["acceptance"]
    assert found[0] == pytest.approx(untrimmed, abs=1e-5)
    assert abs(found[1] - untrimmed) > 0.01


def test_the_same_seed_gives_the_same_text_and_acceptance(engine: Path, prompts: Path, tmp_path: Path):
    found = []
    for i, seed in enumerate((3, 3, 4)):
        path = tmp_path / f"{i}.json"
        run(engine, "--prompts", prompts, *QUICK, *ONE_RULE, "--seed", seed, "--json", path)
        found.append(json.loads(path.read_text())["passages"])
    assert found[0] == found[1] != found[2]


def test_a_text_is_scored_as_it_stands(engine: Path, tmp_path: Path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 8)
    run(engine, "--text", text, "--window", "32", *ONE_RULE, "--repetitions", "1", "--json", tmp_path / "o.json")
    found = json.loads((tmp_path / "o.json").read_text())
    assert {text["begin"] for text in found["passages"]} == {1}
    assert [text["tokens"] for text in found["passages"]][:2] == [32, 32]


def test_a_pair_file_is_built_first(prompts: Path, tmp_path: Path):
    save_checkpoint(tmp_path / "target")
    pair = write_pair(tmp_path / "pair.yaml")
    output = run(pair, "--engine", tmp_path / "engine", "--prompts", prompts, *QUICK, *ONE_RULE)
    assert Manifest.read(tmp_path / "engine").name == "tiny"
    assert "repeat with: " in output


def verdicts(engine: Path, prompts: Path, *, draft: float) -> dict[str, str]:
    """By rule, were a step of the drafter ``draft`` forwards of the target and judging free."""

    def measured(pair: object, token_ids: object, ways: list[Any], **_: object) -> MeasuredCosts:
        nothing = (0.0,) * (LONGEST + 1)
        return MeasuredCosts(
            context=20,
            repetitions=1,
            draft={way.temperature: draft for way in ways},
            score=(1.0,) * (LONGEST + 1),
            verify={way.name: nothing for way in ways},
        )

    settings = ScoreSettings(engine_dir=engine, prompts=prompts, tokens=10, rules=("strict",))
    found = score(settings, Manifest.read(engine), tell=lambda *_: lambda _: None, measure=measured)
    return {name: prediction.verdict for name, prediction in found.predictions.items()}


def test_a_perfect_and_cheap_drafter_pays(twin: Path, prompts: Path):
    pays = "pays: K = 8, 5.00x predicted"
    assert verdicts(twin, prompts, draft=0.1) == {"strict": pays, "greedy": pays}


def test_a_drafter_larger_than_its_target_is_slower_at_every_length(prompts: Path, tmp_path: Path):
    target = tiny_llama()
    slow = tiny_llama(layers=16)
    slow.load_state_dict({**slow.state_dict(), **deepcopy(target.state_dict())})
    with torch.no_grad():
        for layer in slow.model.layers[4:]:
            # A layer that adds nothing: the drafter agrees with the target in all, and costs several times as much.
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    # Measured for real: enough repetitions that no single stall decides.
    output = run(built(tmp_path, slow), "--prompts", prompts, *QUICK, *ONE_RULE, "--repetitions", "13")
    for rule in ("strict", "greedy"):
        assert verdict(output, rule).startswith("c = ")
        assert verdict(output, rule).endswith(", acceptance 1.00: slower at every K")


def test_an_untrained_drafter_is_told_so(prompts: Path, tmp_path: Path):
    untrained = tiny_llama(seed=7)
    with torch.no_grad():
        # Sure of itself, and of something else than the target.
        untrained.model.norm.weight *= 40
    found = verdicts(built(tmp_path, untrained), prompts, draft=0.5)["strict"]
    assert found.startswith("acceptance 0.0")
    assert found.endswith(": this drafter agrees with the target hardly ever; slower at every K")


def test_a_pair_without_a_common_vocabulary_ends_with_the_first_id_that_differs(prompts: Path, tmp_path: Path):
    save_checkpoint(tmp_path / "target")
    other = tiny_tokenizer(text=["quite other words: zebra, quartz, jukebox, fjord"])
    save_checkpoint(tmp_path / "small", tokenizer=other)
    pair = write_pair(tmp_path / "pair.yaml", drafter={"path": "small"})
    arguments = ("drafter", "score", pair, "--engine", tmp_path / "engine", "--prompts", prompts)
    done = subprocess.run(
        [sys.executable, "-c", "from spec_cascade.cli import main; main()", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"spec-cascade: target and drafter do not share a vocabulary .*: id \d+ is .*\n", done.stderr)
    assert not (tmp_path / "engine").exists()


@pytest.mark.parametrize("drafter", ["none", {"prompt_lookup": {"min_ngram": 1, "max_ngram": 3}}])
def test_a_pair_without_a_drafting_model_is_refused_before_and_after_its_build(
    drafter: object, prompts: Path, tmp_path: Path
):
    word = drafter if isinstance(drafter, str) else "prompt_lookup"
    directory = build_tiny(tmp_path, drafter=drafter)
    for pair in (directory, tmp_path / "pair.yaml"):
        with pytest.raises(ConfigError, match=rf"^drafter = '{word}' is not allowed: must be a model"):
            run(pair, "--prompts", prompts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokens", "0"), "--tokens = 0 is not allowed: must be an integer >= 1"),
        (("--tokens", "500"), "--tokens = 500 is not allowed: must be at most"),
        (("--repetitions", "0"), "--repetitions = 0 is not allowed"),
        (("--temperature", "-1"), "temperature = -1.0 is not allowed"),
        (("--rule", "strictt"), "did you mean 'strict'"),
        (("--rule", "target_only"), "must be a rule that drafts"),
        (("--text", "no.txt"), "--text = 'no.txt' is not allowed: must be left out where prompts are named"),
        (("--engine", "x"), "--engine = 'x' is not allowed: must be left out"),
        (("--plot", "o.xyz"), "--plot = 'o.xyz' is not allowed"),
        (("--json", "/"), "--json = '/' is not allowed"),
    ],
)
def test_what_cannot_be_done_is_an_error_that_names_the_option(
    engine: Path, prompts: Path, arguments: tuple[str, ...], message: str
):
    with pytest.raises(SpecCascadeError) as caught:
        run(engine, "--prompts", prompts, *arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--text", "no.txt", "--window", "9"),
            "--text = 'no.txt' is not allowed: must be a text file that can be read",
        ),
        (("--text", "x", "--window", "900"), "--window = 900 is not allowed: must be at most 200"),
        (("--prompts", "no.txt"), "no.txt cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(engine: Path, arguments: tuple[str, ...], message: str):
    with pytest.raises(SpecCascadeError) as caught:
        run(engine, *arguments)
    assert message in str(caught.value)


def test_a_path_that_is_no_engine_is_refused(tmp_path: Path):
    with pytest.raises(SpecCascadeError, match="not a finished engine"):
        run(tmp_path)


def test_there_are_64_built_in_prompts_and_none_is_a_bench_prompt():
    from spec_cascade.bench.prompts import PROMPTS as BENCH_PROMPTS

    prompts = read_prompts(PROMPTS)
    assert score_settings.PROMPTS.name == "prompts.txt"
    assert len(prompts) == len(set(prompts)) == 64
    assert not set(prompts) & set(BENCH_PROMPTS)
