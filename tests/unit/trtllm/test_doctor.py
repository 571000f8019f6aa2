"""`spec-cascade doctor` on the fake: what it says of a TensorRT-LLM that fits, and of one that does not."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace

import pytest
import typer
from typer.testing import CliRunner

from spec_cascade.engines.tensorrt_llm import doctor, smoke
from spec_cascade.engines.tensorrt_llm.contract import ContractTableError
from spec_cascade.engines.tensorrt_llm.delivery import SINGLE_PROCESS
from spec_cascade.engines.tensorrt_llm.doctor import examine
from spec_cascade.engines.tensorrt_llm.doctor_command import register
from spec_cascade.engines.tensorrt_llm.smoke import STOCK, SmokeJob, SmokeResult
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade.errors import ConfigError, EngineError
from tests.unit.trtllm.playing import playing
from tests.unit.trtllm.smoking import JOB, RULE, register_pair

SHAPES = {"s1": "trtllm-1.2.0rc3-rc5", "s15": "trtllm-1.2.1", "s2": "trtllm-1.3.0rc2-rc3"}
FORCED = "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"


@pytest.fixture(autouse=True)
def environment_as_it_was(monkeypatch):
    """The variables that an engine is made with are set for good; here, until the test has ended."""
    for name in (SINGLE_PROCESS, VARIABLE):
        monkeypatch.setenv(name, "")


@pytest.fixture(params=SHAPES)
def shape(request):
    with playing(request.param):
        register_pair()
        yield request.param


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    return app


def states(diagnosis: doctor.Diagnosis, part: str) -> dict[str, str]:
    return {check.name: check.state for check in diagnosis.checks if check.part == part}


def details(diagnosis: doctor.Diagnosis) -> dict[str, str]:
    return {check.name: check.detail for check in diagnosis.checks}


def test_a_tensorrt_llm_that_fits_is_healthy(shape):
    diagnosis = examine()
    assert diagnosis.healthy
    assert diagnosis.first_failure is None
    contracts = states(diagnosis, "contracts")
    assert {name: contracts[name] for name in SHAPES.values()} == {
        name: "ok" if name == SHAPES[shape] else "skipped" for name in SHAPES.values()
    }
    assert details(diagnosis)["probe sample_values"] == ("3" if shape == "s2" else "2")
    assert details(diagnosis)["probe greedy_probs"] == ("one_hot" if shape == "s2" else "softmax")
    assert contracts["probe stop_criteria"] == "ok"
    assert states(diagnosis, "generation") == {"a pair": "skipped"}
    assert states(diagnosis, "versions")["torch"] == "ok"


def test_strict_is_the_stock_verifier_and_a_rule_runs(shape):
    diagnosis = examine(JOB, run_job=smoke.run)
    assert diagnosis.healthy, diagnosis.first_failure
    assert states(diagnosis, "generation") == {"stock verifier": "ok", "strict": "ok", RULE: "ok"}
    assert details(diagnosis)["strict"].startswith("equals the stock verifier; ")
    assert details(diagnosis)["stock verifier"] == "36 tokens for 3 prompts"


def test_what_was_compared_was_decided_by_two_verifiers(shape):
    stock = smoke.run(replace(JOB, rules=(STOCK,)))
    ours = smoke.run(replace(JOB, rules=("strict", "token_v3:alpha=0.9,strict_prefix_tokens=0")))
    assert (stock.contract, ours.contract) == (None, SHAPES[shape])
    assert ours.token_ids["strict"] == stock.token_ids[STOCK]
    # A rule that lets the drafter have its way: were it left out, the outputs would be the same.
    assert ours.token_ids["token_v3:alpha=0.9,strict_prefix_tokens=0"] != stock.token_ids[STOCK]


def test_a_verifier_that_differs_is_a_failure_that_says_where():
    def run(job: SmokeJob) -> SmokeResult:
        tokens = {rule: [[1, 2, 3], [4, 5 if rule == STOCK else 6]] for rule in job.rules}
        return SmokeResult(token_ids=tokens, tokens_per_round=dict.fromkeys(job.rules), contract=None)

    with playing("s15"):
        diagnosis = examine(JOB, run_job=run)
    assert not diagnosis.healthy
    assert diagnosis.first_failure.name == "strict"
    assert diagnosis.first_failure.detail == "differs from the stock verifier: prompt 1, token 1: 6 instead of 5"
    assert RULE not in states(diagnosis, "generation")


def test_a_generation_that_fails_is_a_failure():
    def run(job: SmokeJob) -> SmokeResult:
        raise EngineError("no memory")

    with playing("s15"):
        diagnosis = examine(JOB, run_job=run)
    assert (diagnosis.first_failure.part, diagnosis.first_failure.detail) == ("generation", "no memory")


def test_a_broken_promise_is_named_and_nothing_is_generated(shape):
    del importlib.import_module("tensorrt_llm._torch.pyexecutor.sampler").TorchSampler.process_draft_tokens

    def run(job: SmokeJob) -> SmokeResult:
        raise AssertionError("not tried")

    diagnosis = examine(JOB, run_job=run)
    assert not diagnosis.healthy
    assert diagnosis.first_failure.name.endswith("sampler.TorchSampler.process_draft_tokens")
    assert diagnosis.first_failure.detail.startswith("expected a method, found nothing of that name")
    assert details(diagnosis)["a pair"] == "not tried: something failed before"


def test_a_version_that_says_otherwise_is_a_warning(monkeypatch):
    with playing("s15") as package:
        monkeypatch.setattr(package, "__version__", "1.3.0rc2")
        diagnosis = examine()
    assert diagnosis.healthy
    assert states(diagnosis, "contracts")["version"] == "warning"
    assert "its shape is that of trtllm-1.2.1" in details(diagnosis)["version"]


def test_the_environment_is_told_and_what_must_not_be_set_fails(monkeypatch):
    monkeypatch.setenv("TLLM_LOG_LEVEL", "INFO")
    monkeypatch.setenv(VARIABLE, "{}")
    with playing("s15"):
        healthy = examine()
        monkeypatch.setenv(FORCED, "2")
        forced = examine()
        monkeypatch.delenv(FORCED)
        monkeypatch.setenv(VARIABLE, "{")
        unreadable = examine()
    assert details(healthy)["TLLM_LOG_LEVEL"] == "INFO"
    assert details(healthy)[VARIABLE] == "default rule strict"
    assert healthy.healthy
    assert forced.first_failure.name == FORCED
    assert unreadable.first_failure.name == VARIABLE


SECRET = "c0ffee" * 10


@pytest.mark.parametrize(
    "settings",
    [
        json.dumps({"report_address": "/run/reports", "report_key": SECRET}),
        json.dumps({"report_key": SECRET}),
        f'{{"report_key": "{SECRET}", ',
        SECRET,
    ],
)
def test_values_that_may_be_secret_are_not_told(monkeypatch, settings):
    key = "TLLM_SPAWN_PROXY_PROCESS_IPC_HMAC_KEY"
    monkeypatch.setenv(key, SECRET)
    monkeypatch.setenv("TRTLLM_OF_A_LATER_VERSION", SECRET)
    monkeypatch.setenv(VARIABLE, settings)
    with playing("s15"):
        diagnosis = examine()
    assert {key, "TRTLLM_OF_A_LATER_VERSION", VARIABLE} <= states(diagnosis, "environment").keys()
    assert "c0ffee" not in json.dumps(diagnosis.as_dict())


def test_a_contract_table_that_is_none_is_a_failure_and_the_rest_is_looked_at(monkeypatch):
    def broken():
        raise ContractTableError("common.yaml: functions.0.parms: no such field")

    monkeypatch.setattr(doctor, "load_contracts", broken)
    monkeypatch.setenv("TLLM_LOG_LEVEL", "INFO")
    with playing("s15"):
        diagnosis = examine(JOB)
    assert (diagnosis.first_failure.name, diagnosis.first_failure.detail) == (
        "tables",
        "common.yaml: functions.0.parms: no such field",
    )
    assert {"TLLM_LOG_LEVEL", "start-up hook"} <= states(diagnosis, "environment").keys()
    assert states(diagnosis, "generation") == {"a pair": "skipped"}


def test_without_tensorrt_llm_it_says_so_and_what_else_it_could_see(app):
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "failed  tensorrt_llm: TensorRT-LLM is not installed in this environment" in result.output
    assert "ok      tables: trtllm-1.3.0rc2-rc3, trtllm-1.2.1, trtllm-1.2.0rc3-rc5" in result.output
    assert "start-up hook" in result.output
    assert result.output.rstrip().endswith("the verifier does not fit: tensorrt_llm: " + _NOT_THERE)


_NOT_THERE = "TensorRT-LLM is not installed in this environment"


def test_json_says_the_same_to_programs(app, shape):
    result = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["healthy"] is True
    assert said["contracts"]["matched"] == SHAPES[shape]
    assert {check["state"] for check in said["checks"]} <= {"ok", "warning", "skipped"}


def test_json_stays_json_when_tensorrt_llm_greets(app, monkeypatch):
    real = doctor.inspect_installed

    def greeting(tables):
        sys.stdout.write("[TensorRT-LLM] TensorRT-LLM version: 1.2.1\n")
        return real(tables)

    monkeypatch.setattr(doctor, "inspect_installed", greeting)
    with playing("s15"):
        result = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert json.loads(result.stdout)["healthy"] is True


def test_the_command_ends_with_status_1_where_a_promise_is_broken(app, shape):
    del importlib.import_module("tensorrt_llm._torch.pyexecutor.llm_request").LlmRequest.finish_by
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "LlmRequest.finish_by" in result.output


@pytest.mark.parametrize("given", [["--model", "a"], ["--drafter", "b"]])
def test_half_a_pair_is_refused(app, given):
    result = CliRunner().invoke(app, ["doctor", *given])
    assert isinstance(result.exception, ConfigError)
    assert result.exception.field == ("--drafter" if given[0] == "--model" else "--model")


def test_the_hook_is_installed_and_removed_by_the_command(app, monkeypatch, tmp_path):
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert "is absent" in details(examine())["start-up hook"]
    installed = CliRunner().invoke(app, ["doctor", "--install-hook"], catch_exceptions=False)
    assert installed.exit_code == 0
    assert str(tmp_path) in installed.output.replace("\n", "")
    assert states(examine(), "environment")["start-up hook"] == "ok"
    assert "removed" in CliRunner().invoke(app, ["doctor", "--remove-hook"]).output
    assert "there was none" in CliRunner().invoke(app, ["doctor", "--remove-hook"]).output
    both = CliRunner().invoke(app, ["doctor", "--install-hook", "--remove-hook"])
    assert isinstance(both.exception, ConfigError)
