"""A request asks for no more than the server's policy allows, however its rule is wrapped."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spec_cascade.errors import ConfigError
from spec_cascade.rules import parse_rule
from spec_cascade.rules.guards import Guard, Phase
from spec_cascade.rules.registry import BUILT_IN
from spec_cascade.serving import policy as policy_module
from spec_cascade.serving.parse import CascadeRequest, parse_cascade_request
from spec_cascade.serving.policy import Policy, PolicyError, load_policy

STRICT = parse_rule("strict")
WRITTEN = """
rules:
  strict:
  token_v3: {alpha: [0, 0.5]}
  chow: {}
  divergence: {kind: [js, tv]}
  all_of:
  schedule:
  strict_prefix: {strict_prefix_tokens: [4, 64]}
default_rule: token_v3:alpha=0.25
max_tokens: 64
max_draft_length: 3
max_priority: 0.3
"""


def loaded(directory: Path, text: str, engine_rule: str = "strict") -> Policy:
    path = directory / "policy.yaml"
    path.write_text(text, encoding="utf-8")
    return load_policy(path, parse_rule(engine_rule))


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return loaded(tmp_path, WRITTEN)


def ask(policy: Policy | None, **fields: Any) -> CascadeRequest:
    return parse_cascade_request({"input_ids": [1, 2], **fields}, policy)


def test_without_a_file_everything_is_allowed() -> None:
    for nothing in (None, ""):
        assert load_policy(nothing, STRICT) == Policy()
    asked = {"deferral_rule": "drafter_only", "max_tokens": 10**6, "draft_length": 1000, "seed": 1}
    assert ask(Policy(), **asked) == ask(None, **asked)


def test_an_empty_file_allows_everything(tmp_path: Path) -> None:
    assert loaded(tmp_path, "# nothing\n") == Policy()


@pytest.mark.parametrize(
    "rule",
    [
        "strict",
        "token_v3:alpha=0.5",
        "token_v3:alpha=0.5,strict_prefix_tokens=4",
        "chow:alpha=0.9",
        "divergence:alpha=0.2,kind=js",
        "all_of(chow:alpha=0.3, token_v3:alpha=0.2)",
        "schedule(0=strict, 16=token_v3:alpha=0.5)",
    ],
)
def test_what_is_allowed_passes(policy: Policy, rule: str) -> None:
    assert ask(policy, deferral_rule=rule, max_tokens=64, draft_length=3).generation.rule == parse_rule(rule)


NAMED = "all_of, chow, divergence, schedule, strict, strict_prefix, token_v3"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"deferral_rule": "opt:alpha=0.1"}, rf"deferral_rule = 'opt' .*made of {NAMED} alone by this server's policy"),
        ({"deferral_rule": "token_v3:alpha=0.51"}, r"token_v3\.alpha = 0\.51 .*in \[0, 0\.5\] by this server's policy"),
        ({"deferral_rule": "divergence:alpha=0.1,kind=kl"}, r"divergence\.kind = 'kl' .*one of js, tv by this server"),
        (
            {"deferral_rule": "token_v3:alpha=0.5,strict_prefix_tokens=0"},
            r"strict_prefix\.strict_prefix_tokens = 0 .*an integer in \[4, 64\] by this server's policy",
        ),
        ({"deferral_rule": "phase(strict):start=1,end=2"}, "deferral_rule = 'phase'"),
        ({"deferral_rule": "phase(token_v3:alpha=0.9):start=1,end=2"}, "deferral_rule = 'phase'"),
        ({"deferral_rule": "target_support(drafter_only)"}, "deferral_rule = 'target_support'"),
        ({"deferral_rule": "all_of(chow:alpha=0.3, token_v3:alpha=0.9)"}, r"token_v3\.alpha = 0\.9"),
        ({"deferral_rule": "all_of(chow:alpha=0.3, all_of(chow:alpha=0.1, token_v1:alpha=0.1))"}, "= 'token_v1'"),
        ({"deferral_rule": "any_of(chow:alpha=0.3, token_v3:alpha=0.3)"}, "= 'any_of'"),
        ({"deferral_rule": "schedule(0=strict, 16=drafter_only)"}, "= 'drafter_only'"),
        ({"deferral_rule": "schedule(0=strict, 16=schedule(0=strict, 3=token_v3:alpha=1))"}, r"token_v3\.alpha = 1"),
        ({"deferral_rule": "schedule(0=token_v3:alpha=0.5,strict_prefix_tokens=1)"}, r"strict_prefix_tokens = 1 "),
        ({"deferral_rule": "strict_prefix(token_v3:alpha=0.9):strict_prefix_tokens=9"}, r"token_v3\.alpha = 0\.9"),
        ({"max_tokens": 65}, "max_tokens = 65 is not allowed: must be at most 64 by this server's policy"),
        ({"draft_length": 4}, "draft_length = 4 is not allowed: must be at most 3 by this server's policy"),
        ({"priority": 0.31}, "priority = 0.31 is not allowed: must be at most 0.3 by this server's policy"),
    ],
)
def test_what_is_not_allowed_is_refused_by_name(policy: Policy, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ask(policy, **fields)


def test_what_a_request_leaves_out_fits_the_policy(policy: Policy) -> None:
    request = ask(policy).generation
    assert (request.rule, request.sampling.max_tokens) == (parse_rule("token_v3:alpha=0.25"), 64)
    assert ask(Policy(max_tokens=1000)).generation.sampling.max_tokens == 128
    assert ask(Policy(max_tokens=1000)).generation.rule is None
    assert ask(policy, draft_length=-1).generation.draft_length == -1
    assert (request.priority, ask(Policy(max_priority=0.9)).generation.priority) == (0.3, 0.5)


def test_the_highest_priority_may_be_asked_for_in_32_bits_too(policy: Policy) -> None:
    (rounded,) = struct.unpack("<f", struct.pack("<f", 0.3))
    assert rounded > 0.3
    assert ask(policy, priority=rounded).generation.priority == 0.3


LOSSLESS = ["strict", "target_only", "schedule(0=strict, 4=target_only)", "phase(strict):start=1,end=2"]
LOSSY = [
    "drafter_only",
    "token_v3:alpha=0.5",
    "token_v3:alpha=0.5,strict_prefix_tokens=1000000",
    "schedule(0=strict, 1000000=drafter_only)",
    "phase(drafter_only):start=1,end=2",
    "any_of(chow:alpha=0.3, token_v3:alpha=0.3)",
]


@pytest.mark.parametrize("rule", LOSSLESS)
def test_where_nothing_lossy_is_allowed_what_is_not_passes(rule: str) -> None:
    assert ask(Policy(lossy=False), deferral_rule=rule).generation.rule == parse_rule(rule)


@pytest.mark.parametrize("rule", LOSSY)
def test_where_nothing_lossy_is_allowed_no_wrapping_makes_it_so(rule: str) -> None:
    with pytest.raises(ConfigError, match=r"deferral_rule = .*not lossy by this server's policy, such as strict"):
        ask(Policy(lossy=False), deferral_rule=rule)


def wrappers() -> list[str]:
    """An example of every built-in rule that has rules inside, around one that no policy below allows."""
    written = [kind.about.example for kind in BUILT_IN if kind.about is not None and "token_v3" in kind.about.example]
    return [example for example in written if not example.startswith("token_v3") or "," in example]


def test_a_rule_is_found_in_every_wrapper_that_there_is() -> None:
    assert len(wrappers()) >= 5
    every_other = {kind: {} for kind in BUILT_IN if kind.name != "token_v3"}
    for example in wrappers():
        with pytest.raises(ConfigError, match="deferral_rule = 'token_v3'"):
            Policy(rules=every_other).check(parse_rule(example))
        Policy(rules={kind: {} for kind in BUILT_IN}).check(parse_rule(example))


@dataclass(frozen=True)
class Hidden(Guard):
    """A rule of a plugin that keeps rules where the built-in ones keep none."""

    more: dict[str, Any] = field(default_factory=dict)
    name = "hidden"


def test_rules_inside_a_plugins_containers_are_found() -> None:
    rules = {Hidden: {}, type(STRICT): {}}
    Policy(rules=rules).check(Hidden(STRICT, {"a": [(1, STRICT)]}))
    with pytest.raises(ConfigError, match="deferral_rule = 'drafter_only'"):
        Policy(rules=rules).check(Hidden(STRICT, {"a": [(1, parse_rule("drafter_only"))]}))


def test_a_subclass_is_not_its_parent() -> None:
    class Louder(Phase):
        """Has the name of its parent."""

    with pytest.raises(ConfigError, match="deferral_rule = 'phase'"):
        Policy(rules={Phase: {}, type(STRICT): {}}).check(Louder(STRICT, start=1, end=2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- strict\n", r"policy\.yaml: policy = \['strict'\] .*a mapping with the keys rules, lossy, default_rule"),
        ("max_token: 5\n", r"max_token = 5 .*did you mean 'max_tokens'"),
        ("max_tokens: 5\nmax_tokens: 6\n", "line 2: .*'max_tokens' is given twice"),
        ("max_tokens: 0\n", "max_tokens = 0 .*an integer >= 1"),
        ("max_tokens: 1.5\n", r"max_tokens = 1\.5 .*an integer >= 1"),
        ("max_tokens: true\n", "max_tokens = True"),
        ("max_draft_length: -1\n", "max_draft_length = -1 .*an integer >= 0"),
        ("lossy: 0\n", "lossy = 0 .*true or false"),
        ("rules:\n", "rules = None .*at least one rule"),
        ("rules: [strict]\n", "rules = .*a mapping"),
        ("rules: {strickt: }\n", "'strickt' .*did you mean 'strict'"),
        ("rules: {strict: , token_v3: {aplha: [0, 1]}}\n", r"rules\.token_v3\.aplha .*did you mean 'alpha'"),
        ("rules: {strict: , token_v3: {alpha: 0.5}}\n", r"rules\.token_v3\.alpha = 0\.5 .*lowest and the highest"),
        ("rules: {strict: , token_v3: {alpha: [1, 0]}}\n", "in this order"),
        ("rules: {strict: , token_v3: {alpha: [0, .nan]}}\n", r"rules\.token_v3\.alpha = nan"),
        ("rules: {strict: , divergence: {kind: [jsd]}}\n", "'jsd' .*one of"),
        ("rules: {strict: , all_of: {rules: [0, 1]}}\n", r"rules\.all_of\.rules .*left out"),
        ("rules: {strict: , token_v3: 0.5}\n", r"rules\.token_v3 = 0\.5"),
        ("rules: {strict: , chow: {alpha: [0, 0.3]}, confidence: }\n", "rules.confidence .*another name of chow"),
        (
            "rules: {strict: , token_v3: {alpha: [5, 10]}}\n",
            r"rules\.token_v3\.alpha = \[5, 10\] .*a range that has a number in",
        ),
        ("rules: {strict: }\ndefault_rule: chow:alpha=0.5\n", "deferral_rule = 'chow' .*made of strict alone"),
        ("rules: {chow: }\n", "deferral_rule = 'strict' .*made of chow alone"),
        ("default_rule: 5\n", "deferral_rule = 5"),
        ("lossy: false\ndefault_rule: token_v3:alpha=0.5\n", "not lossy"),
        ("lossy: [\n", "not valid YAML"),
    ],
)
def test_a_policy_that_says_what_cannot_be_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message) as caught:
        loaded(tmp_path, text)
    assert "policy.yaml" in str(caught.value)


def test_the_engines_own_rule_must_be_allowed_too(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="not lossy"):
        loaded(tmp_path, "lossy: false\n", engine_rule="token_v3:alpha=0.5")
    assert loaded(tmp_path, "lossy: false\ndefault_rule: strict\n", engine_rule="token_v3:alpha=0.5").default_rule


def test_a_missing_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no such policy"):
        load_policy(tmp_path / "missing.yaml", STRICT)


def test_the_example_in_its_documentation_is_a_policy(tmp_path: Path) -> None:
    assert policy_module.__doc__ is not None
    example = "\n".join(line[4:] for line in policy_module.__doc__.partition("::\n")[2].splitlines())
    read = loaded(tmp_path, example)
    assert (read.max_tokens, read.max_draft_length, read.lossy) == (512, 4, True)
    assert read.rules is not None
    assert len(read.rules) == 3
