"""Pair files: the shipped ones are right, and every wrong field is named with what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from spec_cascade.errors import ConfigError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import Pair, check_rule, load_pair
from spec_cascade_build.pair_error import PairError

if TYPE_CHECKING:
    from pydantic import BaseModel

CONFIGS = sorted((Path(__file__).parents[3] / "build_engines" / "configs").glob("*.yaml"))
PACKAGE = {"name": "a-model", "version": "1.0", "sha256": "0" * 64, "file": "*/m.gguf"}
GOOD: dict[str, Any] = {
    "name": "tiny",
    "target": {"path": "target"},
    "drafter": {"prune": {"layers": [0, 2]}},
    "defaults": {"rule": "strict"},
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_pair_files_are_right(path: Path) -> None:
    pair = load_pair(path)
    check_rule(path, pair)
    assert pair.name == path.stem


def test_there_are_shipped_pair_files() -> None:
    assert {path.stem for path in CONFIGS} >= {"smollm2-demo", "smollm2-lookup"}


@pytest.mark.parametrize(
    "drafter",
    [
        {"prune": {"layers": [0]}},
        {"hub": "org/model", "revision": "main"},
        {"path": "../drafter"},
        {"package": PACKAGE},
        {"prompt_lookup": {"min_ngram": 2, "max_ngram": 2}},
        {"prompt_lookup": {}},
        "none",
        None,
    ],
)
def test_every_kind_of_drafter_is_read(tmp_path: Path, drafter: object) -> None:
    pair = load_pair(_file(tmp_path, {**GOOD, "drafter": drafter}))
    assert (pair.drafter is None) == (drafter in ("none", None))


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": "a b"}, "name = 'a b' is not allowed: must be letters, digits"),
    ({"name": 3}, "name = 3 is not allowed"),
    ({"engine": "vllm"}, "engine = 'vllm' is not allowed: must be 'pytorch', 'tensorrt_llm' or 'tensorrt'"),
    ({"dtype": "float16"}, "dtype = 'float16' is not allowed: must be 'bfloat16' or 'float32'"),
    ({"darfter": 1}, "darfter is not a field (did you mean 'drafter'?): must be one of name, engine, dtype"),
    ({"target": "org/model"}, "target = 'org/model' is not allowed: must be a model: {hub: ...}"),
    ({"target": {}}, "target = {} is not allowed: must be given by exactly one of hub, path, package"),
    (
        {"target": {"hub": "org/model", "path": "x"}},
        "target = {'hub': 'org/model', 'path': 'x'} is not allowed: must be given by exactly one of",
    ),
    ({"target": {"hub": "model"}}, "target.hub = 'model' is not allowed: must be a Hugging Face model id"),
    ({"target": {"path": "x", "revision": "main"}}, "target.revision = 'main' is not allowed: must be left out"),
    ({"target": {"pth": "x"}}, "target.pth is not a field (did you mean 'path'?)"),
    ({"target": {"package": {**PACKAGE, "version": 1.0}}}, "target.package.version = 1.0 is not allowed: must be one"),
    ({"target": {"package": {**PACKAGE, "sha256": "ABC"}}}, "target.package.sha256 = 'ABC' is not allowed: must be"),
    ({"target": {"package": {**PACKAGE, "file": "m.bin"}}}, "target.package.file = 'm.bin' is not allowed"),
    ({"target": {"package": {"name": "a"}}}, "target.package.version is missing: must be one exact version"),
    (
        {"int8_drafter": True},
        "int8_drafter = True is not allowed: must be left out: it needs compile: true and a drafter",
    ),
    ({"drafter": {"prune": {"layers": []}}}, "drafter.prune.layers = [] is not allowed: must be layer numbers"),
    ({"drafter": {"prune": {"layers": [2, 0]}}}, "drafter.prune.layers = [2, 0] is not allowed: must be in ascending"),
    ({"drafter": {"prune": {"layers": [0, True]}}}, "drafter.prune.layers[1] = True is not allowed: must be layer"),
    ({"drafter": {"prune": {"layers": [-1]}}}, "drafter.prune.layers[0] = -1 is not allowed"),
    ({"drafter": {"prompt_lookup": {"min_ngram": 0}}}, "drafter.prompt_lookup.min_ngram = 0 is not allowed"),
    (
        {"drafter": {"prompt_lookup": {"min_ngram": 4}}},
        "drafter.prompt_lookup.max_ngram = 3 is not allowed: must be an integer >= min_ngram, which is 4",
    ),
    ({"drafter": {"promt_lookup": {}}}, "drafter.promt_lookup is not a field (did you mean 'prompt_lookup'?)"),
    ({"drafter": "nothing"}, "drafter = 'nothing' is not allowed: must be {prune: ...}"),
    ({"drafter": "none", "defaults": {"draft_length": 4}}, "defaults.draft_length = 4 is not allowed: must be 0 when"),
    (
        {"drafter": "none", "defaults": {"draft_length": "auto"}},
        "defaults.draft_length = 'auto' is not allowed: must be 0",
    ),
    ({"defaults": {"draft_length": -1}}, "defaults.draft_length = -1 is not allowed: must be an integer >= 0 (0 dec"),
    (
        {"defaults": {"draft_length": "auto", "max_draft_length": 0}},
        "defaults.max_draft_length = 0 is not allowed: must be an integer >= 1 where draft_length is auto",
    ),
    (
        {"drafter": {"prompt_lookup": {}}, "defaults": {"draft_confidence": 0.5}},
        "defaults.draft_confidence = 0.5 is not allowed: must be left out: this drafter is no model",
    ),
    ({"defaults": {"draft_lenght": 4}}, "defaults.draft_lenght is not a field (did you mean 'draft_length'?)"),
    ({"defaults": {"draft_length": "4"}}, "defaults.draft_length = '4' is not allowed: must be an integer >= 0"),
    ({"defaults": {"draft_length": 9}}, "defaults.draft_length = 9 is not allowed: must be an integer <= max_draft"),
    ({"defaults": {"max_batch_size": 0}}, "defaults.max_batch_size = 0 is not allowed: must be an integer >= 1"),
    ({"defaults": {"max_seq_len": True}}, "defaults.max_seq_len = True is not allowed: must be an integer >= 2"),
    ({"defaults": None}, "defaults = None is not allowed: must be a mapping"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=[message[:40] for _, message in WRONG])
def test_a_wrong_field_is_named_with_what_is_allowed(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = _file(tmp_path, {**GOOD, **change})
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["name", "target", "drafter"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    path = _file(tmp_path, {name: value for name, value in GOOD.items() if name != field})
    with pytest.raises(PairError, match=f"{field} is missing: must be "):
        load_pair(path)


@pytest.mark.parametrize("rule", ["token_v9", "token_v3:alpha=2", "token_v3:beta=0.1", "(", "strict:"])
def test_a_wrong_rule_is_an_error_of_the_field(tmp_path: Path, rule: str) -> None:
    path = _file(tmp_path, {**GOOD, "defaults": {"rule": rule}})
    with pytest.raises(PairError, match=r"defaults\.rule = ") as caught:
        check_rule(path, load_pair(path))
    assert isinstance(caught.value, ConfigError)
    assert caught.value.field == "defaults.rule"


def test_a_rule_that_reads_the_drafters_row_is_refused_for_prompt_lookup(tmp_path: Path) -> None:
    defaults = {"rule": "chow:alpha=0.5"}
    path = _file(tmp_path, {**GOOD, "drafter": {"prompt_lookup": {}}, "defaults": defaults})
    with pytest.raises(PairError, match=r"defaults\.rule = 'chow:alpha=0\.5'.*argmax drafts"):
        check_rule(path, load_pair(path))
    path = _file(tmp_path, {**GOOD, "defaults": defaults})
    check_rule(path, load_pair(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1: not valid YAML"),
        ("name: a\nname: b\n", "line 2: not valid YAML: 'name' is given twice"),
        ("defaults:\n  rule: strict\n  rule: chow\n", "line 3: not valid YAML: 'rule' is given twice"),
        ("? [a]\n: b\n", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
    ],
)
def test_broken_yaml_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(text)
    with pytest.raises(BuildError) as caught:
        load_pair(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n", "just words\n", "1: 2\n"])
def test_yaml_that_is_no_pair_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(text)
    with pytest.raises(PairError):
        load_pair(path)


def test_a_missing_pair_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"nothing\.yaml: no such pair file"):
        load_pair(tmp_path / "nothing.yaml")


def test_every_field_says_what_is_allowed() -> None:
    def sections(model: type[BaseModel]) -> list[type[BaseModel]]:
        return [model, *(inner for child in model.__subclasses__() for inner in sections(child))]

    root = next(base for base in Pair.__mro__ if base.__name__ == "Section")
    fields = [(section, name, field) for section in sections(root) for name, field in section.model_fields.items()]
    assert len(fields) > 20
    assert [f"{section.__name__}.{name}" for section, name, field in fields if not field.description] == []


def _file(directory: Path, data: dict[str, Any]) -> Path:
    path = directory / "pair.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return path
