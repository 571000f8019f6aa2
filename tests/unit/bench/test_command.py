"""``spec-cascade bench`` on tiny engines: the table, the JSON, the plot, and what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.bench.commands import register
from spec_cascade.errors import ConfigError, SpecCascadeError

if TYPE_CHECKING:
    from pathlib import Path

QUICK = ("--tokens", "6", "--prompts", "2", "--repetitions", "2", "--warm-up", "0")
PEERS = ["generate bfloat16", "generate float32"]


def bench(engine: Path, *arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["bench", str(engine), *QUICK, *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def measured(engine: Path, path: Path, *arguments: str) -> dict[str, Any]:
    bench(engine, "--json", str(path), *arguments)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_the_table_the_json_and_the_plot_of_a_pair(engine: Path, tmp_path: Path) -> None:
    files = tmp_path / "sub"
    output = bench(
        engine,
        "--concurrency",
        "1,2",
        "--draft-length",
        "3",
        "--json",
        str(files / "o.json"),
        "--plot",
        str(files / "o.svg"),
    )
    found = json.loads((files / "o.json").read_text())
    ours = ["target only", "no drafter", "strict", "token_v3:alpha=0.8"]
    names = [line["subject"] for line in found["summary"] if line["streams"] == 1]
    assert names[:6] == [*ours, *PEERS]
    assert [name.split()[0] for name in names[6:]] == ["assisted", "assisted"]
    assert names[7] == f"{names[6]} K=3"
    assert [line["subject"] for line in found["summary"] if line["streams"] == 2] == ours
    rows = [line.split() for line in output.splitlines()]
    for line in found["summary"]:
        assert [str(line["streams"]), *line["subject"].split()] in [
            row[: 1 + len(line["subject"].split())] for row in rows
        ]
    assert "target only over no drafter: " in output
    assert "1 torch threads" in output or f"{found['machine']['torch_threads']} torch threads" in output

    assert found["format"] == 1
    assert {"command", "date", "machine", "versions", "engine", "settings", "remarks", "comparisons"} < set(found)
    assert found["settings"]["concurrency"] == [1, 2]
    assert found["versions"]["torch"]
    assert len(found["runs"]) == 2 * (8 + 4)
    for run in found["runs"]:
        assert run["seconds"] > 0
        assert run["tokens"] == 12
        for reply in run["replies"]:
            assert len(reply["token_ids"]) == 6 == sum(tokens for _, tokens in reply["chunks"])
            assert [time for time, _ in reply["chunks"]] == sorted(time for time, _ in reply["chunks"])
            assert reply["target_calls"] <= 6

    by_name = {(line["subject"], line["streams"]): line for line in found["summary"]}
    assert by_name["target only", 1]["ratio"] == {"median": 1.0, "least": 1.0, "greatest": 1.0}
    assert by_name["target only", 1]["tokens_per_target_call"] == 1.0
    # The figures of one subject, from the raw samples.
    runs = [run for run in found["runs"] if run["subject"] == "strict" and run["streams"] == 2]
    speeds = [run["tokens"] / run["seconds"] for run in runs]
    assert by_name["strict", 2]["tokens_per_second"]["median"] == pytest.approx(sum(speeds) / 2)

    svg = (files / "o.svg").read_text()
    assert svg.lstrip().startswith("<?xml")
    assert "requests at a time" in svg or "<path" in svg


def test_greedy_output_is_the_same_from_every_lossless_subject_in_float32(engine: Path, tmp_path: Path) -> None:
    found = measured(engine, tmp_path / "o.json", "--concurrency", "1", "--rule", "strict")
    lossless = {line["subject"]: line["same_tokens"] for line in found["summary"] if "bfloat16" not in line["subject"]}
    # Assisted generation runs in the dtype that `generate` was faster in here: one of those, or not.
    assert {"target only", "no drafter", "strict", "generate float32"} <= set(lossless)
    assert set(lossless.values()) == {1.0}


def test_drafts_are_counted(engine: Path, tmp_path: Path) -> None:
    found = measured(engine, tmp_path / "o.json", "--no-peers", "--concurrency", "1", "--draft-length", "2")
    strict = next(line for line in found["summary"] if line["subject"] == "strict")
    drafted = sum(r["drafted"] for run in found["runs"] if run["subject"] == "strict" for r in run["replies"])
    assert drafted > 0
    assert 0 <= strict["acceptance"] <= 1
    assert list(strict["parts"]) == ["draft", "score", "verify", "host"]
    assert sum(strict["parts"].values()) == pytest.approx(1)
    assert not any(line["subject"].startswith("generate") for line in found["summary"])


def test_at_temperature_1_every_subject_samples(engine: Path, tmp_path: Path) -> None:
    # A draft length that is asked for is kept, whatever it costs; the engine's own may give way to none in between.
    options = ("--concurrency", "1", "--rule", "strict", "--draft-length", "2")
    found = measured(engine, tmp_path / "o.json", "--temperature", "1", *options)
    outputs: dict[str, set[str]] = {}
    for run in found["runs"]:
        for reply in run["replies"]:
            outputs.setdefault(run["subject"], set()).add(str((reply["prompt"], reply["token_ids"])))
    # Two prompts, two repetitions with the same seeds. The engine's draws depend on the seed alone.
    assert {name: len(kinds) for name, kinds in outputs.items() if not name.startswith("assisted")} == {
        name: 2 for name in outputs if not name.startswith("assisted")
    }
    greedy = measured(engine, tmp_path / "g.json", "--no-peers", *options)
    assert {str((r["prompt"], r["token_ids"])) for r in greedy["runs"][0]["replies"]} != outputs["target only"]


def test_prompt_lookup_is_measured_against_transformers_own(lookup_engine: Path, tmp_path: Path) -> None:
    found = measured(lookup_engine, tmp_path / "o.json", "--draft-length", "3")
    names = {line["subject"] for line in found["summary"]}
    assert {"target only", "no drafter", "strict", *PEERS} < names
    assert sum(name.startswith("prompt lookup") for name in names) == 2
    # max_batch_size is 2: the default sweep ends there.
    assert found["settings"]["concurrency"] == [1, 2]


def test_an_engine_without_a_drafter_is_measured_alone(bare_engine: Path, tmp_path: Path) -> None:
    found = measured(bare_engine, tmp_path / "o.json", "--concurrency", "1")
    assert [line["subject"] for line in found["summary"]] == ["target only", *PEERS]
    with pytest.raises(ConfigError, match=r"--rule = 'strict' .* no drafter"):
        bench(bare_engine, "--rule", "strict")
    with pytest.raises(ConfigError, match=r"--draft-length = 4 .* no drafter"):
        bench(bare_engine, "--draft-length", "4", "--no-peers", "--concurrency", "1")


def test_transformers_is_left_out_with_a_remark_where_there_is_no_single_stream(engine: Path, tmp_path: Path) -> None:
    found = measured(engine, tmp_path / "o.json", "--concurrency", "2", "--rule", "strict")
    assert [line["subject"] for line in found["summary"]] == ["target only", "no drafter", "strict"]
    assert any(remark.startswith("transformers is left out") for remark in found["remarks"])


def test_a_default_rule_that_means_nothing_here_is_left_out_with_a_remark(
    lookup_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spec_cascade.bench.session.DEFAULT_RULES", ("strict", "chow:alpha=0.5"))
    found = measured(lookup_engine, tmp_path / "o.json", "--no-peers", "--concurrency", "1")
    assert "chow:alpha=0.5" not in found["settings"]["rules"]
    assert any(remark.startswith("chow:alpha=0.5 is left out: deferral_rule") for remark in found["remarks"])
    with pytest.raises(ConfigError, match="deferral_rule"):
        bench(lookup_engine, "--rule", "chow:alpha=0.5", "--no-peers")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "9"), "--concurrency = 9 .* at most 8"),
        (("--tokens", "190"), "--tokens = 190 .* max_seq_len is 200"),
        (("--draft-length", "99"), "draft_length = 99"),
        (("--rule", "no_such_rule"), "no_such_rule"),
        (("--plot", "a.pdf"), r"\.png or \.svg"),
        (("--json", "/"), "--json = '/' .* a file that can be written"),
        (("--json", "/dev/null/a.json"), "--json = '/dev/null/a.json' .* a file that can be written"),
        (("--plot", "/dev/null/a.png"), "--plot = '/dev/null/a.png' .* a file that can be written"),
    ],
)
def test_what_the_engine_cannot_do_is_refused_before_anything_is_measured(
    engine: Path, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SpecCascadeError, match=message):
        bench(engine, *arguments)


def test_a_plot_without_matplotlib_says_what_to_install(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("spec_cascade.bench.plot.find_spec", lambda name: None if name == "matplotlib" else find(name))
    with pytest.raises(SpecCascadeError, match=r"pip install 'spec-cascade\[bench\]'"):
        bench(engine, "--plot", "o.png")


def test_a_plot_in_pixels_is_written(engine: Path, tmp_path: Path) -> None:
    bench(engine, "--no-peers", "--concurrency", "1", "--plot", str(tmp_path / "o.png"))
    assert (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")


def test_the_verb_is_registered_without_torch() -> None:
    code = "import sys, typer; from spec_cascade.commands import register; register(typer.Typer())\n"
    code += "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
