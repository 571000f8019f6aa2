"""Rules from outside: named by module and class, or brought by an installed package's entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from spec_cascade.errors import ConfigError
from spec_cascade.rules import Rows, parse_rule, registry
from spec_cascade.rules.emission import emission
from spec_cascade.rules.table import lines
from spec_cascade.verify import verify
from tests.unit.rules.example_rule import GeometricMean
from tests.unit.verify.toy import batch_sampling, sampling

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BY_MODULE = "tests.unit.rules.example_rule:GeometricMean"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory on the path that holds an installed package's metadata; the test writes its entry points."""
    metadata = tmp_path / "some_rules-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: some-rules\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._entry_points.cache_clear()
    yield metadata / "entry_points.txt"
    registry._entry_points.cache_clear()


def test_a_class_is_named_by_its_module() -> None:
    rule = parse_rule(f"{BY_MODULE}:weight=0.5,strict_prefix_tokens=2")
    assert rule.rule == GeometricMean(0.5)
    assert str(rule) == f"{BY_MODULE}:weight=0.5,strict_prefix_tokens=2"
    assert parse_rule(str(rule)) == rule
    assert parse_rule({"name": BY_MODULE, "weight": 0.5}) == GeometricMean(0.5)
    with pytest.raises(ConfigError, match=r"geometric_mean.weight = '2' .* a number in \[0, 1\]"):
        parse_rule(f"{BY_MODULE}:weight=2")


def test_a_rule_that_only_has_a_law_emits_it() -> None:
    generator = torch.Generator().manual_seed(0)
    q, p = torch.rand(2, 5, generator=generator, dtype=torch.float64).log().softmax(-1)
    rule = GeometricMean(0.5)
    law = rule.law(q, p, q, p)
    torch.testing.assert_close(emission(rule, Rows(q, p, q, p)), law, rtol=0, atol=1e-12)


def test_a_rule_that_only_has_a_law_runs_in_the_verifier_also_with_a_part_of_the_vocabulary() -> None:
    generator = torch.Generator().manual_seed(0)
    draft, target = torch.randn(300, 2, 4, generator=generator), torch.randn(300, 3, 6, generator=generator)
    known = torch.tensor([5, 0, 2, 3])
    whole = torch.full((300, 2, 6), float("-inf")).index_copy(-1, known, draft)
    tokens = known[torch.randint(4, (300, 2), generator=generator)]
    uniforms = torch.rand(300, 3, 2, generator=generator, dtype=torch.float64)
    rules, params = [parse_rule(f"{BY_MODULE}:weight=0.4")] * 300, batch_sampling(sampling(), 300)
    part = verify(tokens, draft, target, rules, params, uniforms, draft_index=known)
    full = verify(tokens, whole, target, rules, params, uniforms)
    assert torch.equal(part.accepted, full.accepted)
    assert torch.equal(part.next_token, full.next_token)
    assert 0 < part.accepted.float().mean() < 2


def test_an_installed_rule_goes_by_its_name(installed: Path) -> None:
    installed.write_text(f"[spec_cascade.rules]\ngeometric_mean = {BY_MODULE}\n")
    rule = parse_rule("geometric_mean:weight=0.5", allow_import=False)
    assert rule == GeometricMean(0.5)
    assert str(rule) == "geometric_mean:weight=0.5"
    assert "geometric_mean" in [line[0] for line in lines()]
    with pytest.raises(ConfigError, match=r"did you mean 'geometric_mean'"):
        parse_rule("geometric_man:weight=0.5")


def test_an_installed_rule_may_not_take_a_built_in_name(installed: Path) -> None:
    installed.write_text(f"[spec_cascade.rules]\nchow = {BY_MODULE}\n")
    with pytest.raises(ConfigError, match="a name that no built-in rule has"):
        parse_rule("geometric_mean:weight=0.5")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Rule", "an importable module:Class"),
        ("tests.unit.rules.example_rule:Missing", "an importable module:Class"),
        ("tests.unit.rules.example_rule:TYPE_CHECKING", "a class that implements"),
        ("pathlib:Path", "a class that implements"),
        ("spec_cascade.rules.base:KeepRule", "a class that implements"),
    ],
)
def test_what_is_no_rule_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_rule(f"{name}:weight=0.5")
