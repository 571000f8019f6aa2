"""docs/serving.md says what the code does, and names code and tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from spec_cascade.rules import parse_rule
from spec_cascade.serving import policy as policy_module
from spec_cascade.serving import wire
from spec_cascade.serving.model_configs import ENSEMBLE_UNARY, MODELS
from spec_cascade.serving.policy import load_policy
from spec_cascade.serving.server import DRAIN_SECONDS
from spec_cascade.serving.wire_table import written_into
from spec_cascade_client.commands import register

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
POLICY, PROBES = (match for match in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
THREATS = [line for line in TEXT.partition("| threat |")[2].splitlines() if line.startswith("| ")]


def test_the_table_of_the_wire_is_the_wires() -> None:
    """If this fails, run python -m spec_cascade.serving.wire_table docs/serving.md."""
    assert written_into(TEXT) == TEXT
    for field in (*wire.ENSEMBLE_INPUTS, *wire.ENSEMBLE_OUTPUTS):
        assert f"| `{field.name}` | " in TEXT


def test_every_model_is_named() -> None:
    for model in MODELS:
        assert f"`{model.name}`" in TEXT
    assert ENSEMBLE_UNARY.count == 4
    assert "its `config.pbtxt` has four" in TEXT


def test_the_example_of_a_policy_is_one_and_the_same(tmp_path: Path) -> None:
    assert policy_module.__doc__ is not None
    example = "\n".join(line[4:] for line in policy_module.__doc__.partition("::\n\n")[2].splitlines())
    assert POLICY.strip() == example.strip()
    (tmp_path / "policy.yaml").write_text(POLICY)
    assert load_policy(tmp_path / "policy.yaml", parse_rule("strict")).max_tokens == 512


def test_the_probe_is_a_command_that_there_is() -> None:
    probes = yaml.safe_load(PROBES)
    command, *arguments = probes["livenessProbe"]["exec"]["command"]
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    assert command == "spec-cascade"
    arguments[1] = "http://127.0.0.1:1"
    assert CliRunner().invoke(app, arguments).exit_code == 1  # nobody there; a wrong option would be 2
    assert float(arguments[-1]) < probes["livenessProbe"]["timeoutSeconds"] < probes["livenessProbe"]["periodSeconds"]


def test_the_seconds_of_a_stop_are_the_launchers() -> None:
    assert f"gives those in flight {DRAIN_SECONDS} seconds and is killed 15 seconds later" in TEXT.replace("\n", " ")


@pytest.mark.parametrize("line", THREATS[1:], ids=lambda line: line.split("|")[1].strip())
def test_each_claim_names_code_or_a_test_that_is_there(line: str) -> None:
    holders = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", line)
    assert holders
    for path, test in holders:
        file = ROOT / path if path.startswith("tests/") else ROOT / "plugin/spec_cascade" / path
        assert file.is_file(), path
        assert not test or f"def {test}(" in file.read_text(encoding="utf-8"), test
