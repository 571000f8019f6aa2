"""docs/tensorrt_llm.md says what the code does; what it shows is run here, and what needs docker is parsed."""

from __future__ import annotations

import ast
import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.decoding.request import DEFAULT_PRIORITY
from spec_cascade.engines.tensorrt_llm.contract import load_contracts
from spec_cascade.engines.tensorrt_llm.delivery import SINGLE_PROCESS
from spec_cascade.engines.tensorrt_llm.hook import FILE_NAME
from spec_cascade.engines.tensorrt_llm.startup import CREATOR, VARIABLE
from spec_cascade.serving import wire
from spec_cascade_build.commands import register
from spec_cascade_build.pair import check_rule, load_pair
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.tensorrt.section import TensorrtSection
from spec_cascade_build.tensorrt.tools import NEWEST, OLDEST
from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, SHIPPED, checked, write_pair
from tests.unit.docker.dockerfile import PATH, ROOT, project
from tests.unit.docker.verbs import parsed

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from spec_cascade_build.section import Section

TEXT = (ROOT / "docs/tensorrt_llm.md").read_text(encoding="utf-8")
PROSE = " ".join(TEXT.split())
ENGINE = ROOT / "plugin" / "spec_cascade" / "engines" / "tensorrt_llm"
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
] + [shlex.split(line) for line in re.findall(r"^    (spec-cascade .*)$", TEXT, re.MULTILINE)]
LOCAL = [words for words in COMMANDS if words[0] == "spec-cascade"]
RUNS = [words for words in COMMANDS if words[:2] == ["docker", "run"]]
IMAGE = project()[-1]
SECTIONS: dict[str, type[Section]] = {"tensorrt_llm": TensorrtLlmSection, "tensorrt": TensorrtSection}
# Options of `docker run` that take a value, and those that take none.
_VALUES, _FLAGS = {"--gpus", "--shm-size", "--env", "--volume", "--publish"}, {"--rm"}


def table(heading: str) -> list[list[str]]:
    """The rows of the table that begins so."""
    lines = TEXT.partition(f"\n| {heading} |")[2].partition("\n\n")[0].splitlines()[2:]
    assert lines, heading
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


# What is shown.


@pytest.mark.parametrize("words", LOCAL, ids=" ".join)
def test_a_command_of_ours_is_one_that_there_is(words: list[str]) -> None:
    parsed(words)


@pytest.mark.parametrize("words", [words for words in LOCAL if "--configs" in words], ids=" ".join)
def test_a_check_is_run_as_it_stands_there(words: list[str], app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    before = sorted(ROOT.iterdir())
    done = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert done.exit_code == 0
    assert f"{Path(words[2]).stem}: checked, no GPU and no weights were needed" in done.stdout
    assert sorted(ROOT.iterdir()) == before


def test_both_checks_are_shown() -> None:
    assert {word for words in LOCAL for word in words} >= {"--check", "--dry-run", "--install-hook"}


def test_the_image_is_built_as_the_dockerfile_says() -> None:
    (words,) = [words for words in COMMANDS if words[:2] == ["docker", "build"]]
    assert f"\n#   {shlex.join(words)}\n" in PATH.read_text(encoding="utf-8")
    assert words[-1] == "."
    assert ROOT / words[words.index("--file") + 1] == PATH


def options(words: list[str]) -> tuple[list[tuple[str, str]], str, list[str]]:
    """The options of a `docker run`, the image, and the command in it: the image's own where none is given."""
    rest, found = list(words[2:]), []
    while rest[0].startswith("--"):
        name = rest.pop(0)
        assert name in _VALUES | _FLAGS, name
        found.append((name, rest.pop(0) if name in _VALUES else ""))
    return found, rest[0], rest[1:] or IMAGE.last("CMD").words


@pytest.mark.parametrize("words", RUNS, ids=lambda words: " ".join(words[-4:]))
def test_a_container_is_started_with_what_is_there(words: list[str]) -> None:
    given, image, command = options(words)
    assert f"--tag {image} " in PATH.read_text(encoding="utf-8")
    assert ("--gpus", "all") in given
    parsed(command)
    home = re.search(r"HOME=(\S+)", IMAGE.last("ENV").text)
    assert home is not None
    for volume in [value for name, value in given if name == "--volume"]:
        source, target, *mode = volume.split(":")
        if source == "$HOME/.cache/huggingface":
            assert target == f"{home[1]}/.cache/huggingface"
        else:
            assert source.startswith("$PWD/")
            assert target in ("/engines", "/pairs"), target
            assert mode in ([], ["ro"])
    ports = [value for name, value in given if name == "--publish"]
    exposed = IMAGE.last("EXPOSE").text.split()
    assert ports in ([], [f"{exposed[0]}-{exposed[-1]}:{exposed[0]}-{exposed[-1]}"])


def test_what_is_built_is_what_is_served() -> None:
    build = next(options(words) for words in RUNS if "build" in words)
    serve = next(options(words) for words in RUNS if options(words)[2] == IMAGE.last("CMD").words)
    given = parsed(build[2])
    mounted = dict(value.split(":")[1::-1] for name, value in build[0] if name == "--volume")
    pair = ROOT / mounted["/pairs"].removeprefix("$PWD/") / Path(given["pair"]).name
    written = str(given["output"]).replace("/engines", mounted["/engines"])
    assert written.endswith(f"/{load_pair(pair).name}")
    assert ("--volume", f"{written}:/engines:ro") in serve[0]
    assert parsed(serve[2])["engine_dir"] == Path("/engines")
    doctor = next(parsed(options(words)[2]) for words in RUNS if "--model" in words)
    assert [doctor["model"], doctor["drafter"]] == [load_pair(pair).target.hub, load_pair(pair).drafter.hub]


def test_what_is_asked_is_on_the_wire() -> None:
    (words,) = [words for words in COMMANDS if words[0] == "curl"]
    assert words[2] == "localhost:8000/v2/models/ensemble/generate"
    known = {field.name for field in wire.ENSEMBLE_INPUTS}
    assert set(json.loads(words[words.index("-d") + 1])) <= known


def test_the_user_is_the_images() -> None:
    assert f"The container's user is {IMAGE.last('USER').text.partition(':')[0]}," in PROSE


def test_the_pair_file_is_the_shipped_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
    (tmp_path / "pair.yaml").write_text(text)
    pair, found = checked(tmp_path / "pair.yaml")
    assert pair == load_pair(SHIPPED / f"{pair.name}.yaml")
    assert found.memory.sequences >= pair.defaults.max_batch_size
    assert CHECKPOINTS.relative_to(ROOT).as_posix() in TEXT


# What is said.


@pytest.mark.parametrize("name", SECTIONS)
def test_the_tables_of_fields_are_the_sections(name: str) -> None:
    rows = {row[0].strip("`"): row[1].strip("`") for row in table(f"field of `{name}`")}
    fields = SECTIONS[name].model_fields
    assert rows == {field: _default(info) for field, info in fields.items()}


def test_the_table_of_limits_is_the_contracts() -> None:
    for contract in load_contracts():
        expected = [[r.name, ", ".join(map(_value, r.one_of)), r.reason] for r in contract.config]
        assert table("configuration") == expected
        for rule in contract.environment:
            assert f"`{rule.name}` must be unset" in PROSE


def test_the_table_of_contracts_is_the_tables() -> None:
    expected = [[f"`{c.name}`", ", ".join(v.rstrip("*").rstrip(".") for v in c.versions)] for c in load_contracts()]
    assert [row[:2] for row in table("contract")] == expected


def test_the_table_of_changes_has_every_method_that_is_overridden() -> None:
    overridden = {
        method.name
        for contract in load_contracts()
        for promise in contract.classes
        if promise.name == "TorchSampler"
        for method in promise.methods
        if method.use == "overridden"
    }
    rows = [row[0].strip("`") for row in table("what | how")]
    assert overridden == {row for row in rows if row in overridden}
    own = ast.parse((ENGINE / "sampler.py").read_text(encoding="utf-8"))
    (sampler,) = [n for n in own.body if isinstance(n, ast.ClassDef) and n.name == "CascadeSampler"]
    assert overridden <= {node.name for node in sampler.body if isinstance(node, ast.FunctionDef)}
    module = CREATOR.rpartition(".")[2]
    assert f"`instantiate_sampler` in `{module}`" in [row[0] for row in table("what | how")]
    assert SINGLE_PROCESS in rows
    assert f"`{FILE_NAME}` in the site directory" in [row[0] for row in table("what | how")]
    assert "_allow_greedy_draft_tokens" in (ENGINE / "open.py").read_text(encoding="utf-8")
    assert f"environment variable `{VARIABLE}`" in PROSE


def test_a_rule_that_means_nothing_with_argmax_drafts_is_refused_as_it_says(tmp_path: Path) -> None:
    assert "`divergence` of kind `kl`" in PROSE
    rule = "divergence:alpha=0.1,kind=kl"
    for mode, refused in (("argmax", True), ("sampled", False)):
        path = write_pair(tmp_path / f"{mode}.yaml", defaults={"rule": rule, "draft_mode": mode})
        if refused:
            with pytest.raises(PairError, match="no draft is ever kept"):
                check_rule(path, load_pair(path))
        else:
            check_rule(path, load_pair(path))


def test_the_modes_are_the_two_that_there_are() -> None:
    assert [row[0] for row in table("`defaults.draft_mode`")] == ["`argmax`", "`sampled`"]


def test_numbers_in_the_text_are_the_codes() -> None:
    assert f"`priority` other than {DEFAULT_PRIORITY}" in PROSE
    assert f"TensorRT-LLM {'.'.join(map(str, OLDEST))} to {'.'.join(map(str, NEWEST))}.x" in PROSE


def test_each_row_of_what_was_executed_names_tests_that_are_there_and_claims_no_gpu() -> None:
    for what, _, container, gpu, holders in table("what | on a CPU"):
        assert gpu == "no", what
        assert container in ("no", "never built"), what
        tests = re.findall(r"`(tests/[\w/]+\.py)`", holders)
        assert tests, what
        for test in tests:
            assert "def test_" in (ROOT / test).read_text(encoding="utf-8"), test


def test_what_it_names_in_the_repository_is_there() -> None:
    links = re.findall(r"\]\(([\w./]+)\)", TEXT)
    assert links
    for link in links:
        assert (ROOT / "docs" / link).is_file(), link
    for path in re.findall(r"`((?:plugin|build_engines|docker|tests)/[\w./]+)`", TEXT):
        assert (ROOT / path).exists(), path


def test_every_pair_file_of_the_engine_is_named() -> None:
    names = {path.stem for path in SHIPPED.glob("*.yaml") if load_pair(path).engine == "tensorrt_llm"}
    assert names == {"llama-3.1-8b", "llama-3.3-70b-fp8-tp4", "llama-3.3-70b-fp8-tp8", "qwen3-32b", "gemma-3-27b"}
    for words in ("Llama 3.3 70B in FP8 on four and on eight H100", "Qwen3 32B", "Gemma 3 27B"):
        assert words in PROSE


def _default(info: FieldInfo) -> str:
    if info.is_required() or info.default is None:
        return ""
    value = info.default
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
