"""Whether TensorRT-LLM, as it is installed here, is one that our verifier fits into: examined from the outside in.

Each part of the examination stands on the one before it. Where one fails, the parts that stand on it are skipped and
say so, and the diagnosis is not a healthy one.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spec_cascade.engines.tensorrt_llm.contract import load_contracts
from spec_cascade.engines.tensorrt_llm.delivery import AUTOTUNER_VARIABLE, SINGLE_PROCESS
from spec_cascade.engines.tensorrt_llm.hook import hook_path, hook_state
from spec_cascade.engines.tensorrt_llm.inspection import inspect_installed
from spec_cascade.engines.tensorrt_llm.requirements import environment_refusals
from spec_cascade.engines.tensorrt_llm.smoke import STOCK, SmokeJob, run_apart
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE, settings_from
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from spec_cascade.engines.tensorrt_llm.contract import Contract
    from spec_cascade.engines.tensorrt_llm.findings import Inspection
    from spec_cascade.engines.tensorrt_llm.smoke import SmokeResult

State = Literal["ok", "warning", "failed", "skipped"]
_PREFIXES = ("TLLM_", "TRTLLM_")
# All others are named, and their values kept: some are keys that sign what processes tell each other.
_TOLD = frozenset(
    {
        AUTOTUNER_VARIABLE,
        SINGLE_PROCESS,
        "TLLM_LOG_LEVEL",
        "TLLM_LOG_FIRST_RANK_ONLY",
        "TLLM_SPAWN_PROXY_PROCESS",
        "TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS",
        "TRTLLM_ENABLE_PDL",
        "TRTLLM_VISIBLE_DEVICES",
    }
)
_DRIVER = Path("/proc/driver/nvidia/version")
STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: Of the examination.
        name: What it is.
        state: ``failed`` makes the diagnosis unhealthy; ``warning`` costs something, which is said.
        detail: What was found.
    """

    part: str
    name: str
    state: State
    detail: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was looked at, in order.

    Attributes:
        checks: One after the other.
        inspection: The contracts; None where there was nothing to hold them against.
    """

    checks: tuple[Check, ...]
    inspection: Inspection | None

    @property
    def healthy(self) -> bool:
        """Whether nothing failed."""
        return all(check.state != "failed" for check in self.checks)

    @property
    def first_failure(self) -> Check | None:
        """The first thing that failed."""
        return next((check for check in self.checks if check.state == "failed"), None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "healthy": self.healthy,
            "checks": [asdict(check) for check in self.checks],
            "contracts": None if self.inspection is None else self.inspection.as_dict(),
        }


@dataclass(slots=True)
class _Examination:
    checks: list[Check] = field(default_factory=list)
    tables: tuple[Contract, ...] = ()
    inspection: Inspection | None = None

    def note(self, part: str, name: str, state: State, detail: str) -> None:
        self.checks.append(Check(part, name, state, detail))

    @property
    def failed(self) -> bool:
        return any(check.state == "failed" for check in self.checks)


def examine(job: SmokeJob | None = None, *, run_job: Callable[[SmokeJob], SmokeResult] = run_apart) -> Diagnosis:
    """Examine this environment.

    Args:
        job: A pair to generate with; its rules are tried, after `STRICT` and the stock verifier. None leaves it out.
        run_job: Runs a job.
    """
    examination = _Examination()
    _versions(examination)
    _contracts(examination)
    _environment(examination)
    _generation(examination, job, run_job)
    return Diagnosis(tuple(examination.checks), examination.inspection)


def _versions(examination: _Examination) -> None:
    part = "versions"
    supported = (3, 10) <= sys.version_info[:2] <= (3, 13)
    examination.note(part, "python", "ok" if supported else "failed", platform.python_version())
    for name in ("spec-cascade", "tensorrt_llm", "torch", "transformers"):
        found = _version(name)
        examination.note(part, name, "ok" if found else "skipped", found or "no distribution of this name")
    for name, found in _gpu_facts():
        examination.note(part, name, "ok" if found else "warning", found or "none")


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _gpu_facts() -> Iterator[tuple[str, str]]:
    """What there is of NVIDIA's, as torch and the driver tell; empty where there is nothing."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        yield "CUDA", f"unknown: torch cannot be imported ({error})"
        return
    yield "CUDA", torch.version.cuda or ""
    driver = _DRIVER.read_text(encoding="utf-8").splitlines()[0] if _DRIVER.is_file() else ""
    yield "driver", driver.partition(":")[2].strip()
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = [torch.cuda.get_device_properties(i) for i in range(count)]
    yield "GPUs", ", ".join(f"{p.name} ({p.total_memory / 2**30:.0f} GiB)" for p in names)


def _contracts(examination: _Examination) -> None:
    part = "contracts"
    try:
        examination.tables = tables = load_contracts()
    except EngineError as error:
        examination.note(part, "tables", "failed", str(error))
        return
    examination.note(part, "tables", "ok", ", ".join(table.name for table in tables))
    try:
        inspection = inspect_installed(tables)
    except EngineError as error:
        examination.note(part, "tensorrt_llm", "failed", str(error))
        return
    examination.inspection = inspection
    matched = inspection.matched
    for report in inspection.reports:
        state: State = "ok" if report is matched else "skipped"
        examination.note(part, report.contract.name, state, report.lines()[0].partition(": ")[2])
    if matched is None:
        for promise in inspection.nearest.must:
            examination.note(part, promise.name, "failed", f"expected {promise.expected}, found {promise.found}")
        return
    for promise in matched.should:
        lost = f"; lost: {promise.without}" if promise.without else ""
        examination.note(part, promise.name, "warning", f"expected {promise.expected}, found {promise.found}{lost}")
    for probe in matched.contract.probes:
        if f"probe {probe.name}" not in {promise.name for promise in matched.broken}:
            examination.note(part, f"probe {probe.name}", "ok", str(probe.value))
    if inspection.remark is not None:
        examination.note(part, "version", "warning", inspection.remark)


def _environment(examination: _Examination) -> None:
    part = "environment"
    for name in sorted(os.environ):
        if name.startswith(_PREFIXES) and name != VARIABLE:
            examination.note(part, name, "ok", os.environ[name] if name in _TOLD else "set; its value is not told here")
    # What must not be set is the same in all tables; where none could be read, that is a failure already.
    for contract in examination.tables[:1]:
        for refusal in environment_refusals(contract):
            examination.note(part, refusal.partition(" = ")[0], "failed", refusal)
    settings = os.environ.get(VARIABLE)
    if settings:
        try:
            examination.note(part, VARIABLE, "ok", f"default rule {settings_from(settings).default_rule}")
        except EngineError as error:
            examination.note(part, VARIABLE, "failed", str(error))
    state = hook_state()
    needed = "engines of several GPUs need it: spec-cascade doctor --install-hook"
    detail = f"{hook_path()} is {state}" + ("" if state == "installed" else f"; {needed}")
    examination.note(part, "start-up hook", "ok" if state == "installed" else "warning", detail)


def _generation(examination: _Examination, job: SmokeJob | None, run_job: Callable[[SmokeJob], SmokeResult]) -> None:
    part = "generation"
    if job is None or examination.failed:
        why = "needs --model and --drafter" if job is None else "not tried: something failed before"
        examination.note(part, "a pair", "skipped", why)
        return
    try:
        stock = run_job(replace(job, rules=(STOCK,))).token_ids[STOCK]
        examination.note(part, "stock verifier", "ok", _counted(stock))
        ours = run_job(replace(job, rules=(STRICT, *job.rules)))
    except EngineError as error:
        examination.note(part, "a pair", "failed", str(error))
        return
    difference = _difference(stock, ours.token_ids[STRICT])
    if difference is not None:
        examination.note(part, STRICT, "failed", f"differs from the stock verifier: {difference}")
        return
    examination.note(part, STRICT, "ok", f"equals the stock verifier; {_rate(ours, STRICT)}")
    for rule in job.rules:
        tokens = ours.token_ids[rule]
        whole = len(tokens) == len(job.prompts) and all(tokens)
        examination.note(part, rule, "ok" if whole else "failed", f"{_counted(tokens)}; {_rate(ours, rule)}")


def _difference(expected: list[list[int]], found: list[list[int]]) -> str | None:
    if len(expected) != len(found):
        return f"{len(found)} outputs instead of {len(expected)}"
    for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        if ours != theirs:
            at = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            if at is None:
                return f"prompt {i}: {len(ours)} tokens instead of {len(theirs)}"
            return f"prompt {i}, token {at}: {ours[at]} instead of {theirs[at]}"
    return None


def _counted(tokens: list[list[int]]) -> str:
    return f"{sum(map(len, tokens))} tokens for {len(tokens)} prompts"


def _rate(result: SmokeResult, rule: str) -> str:
    rate = result.tokens_per_round[rule]
    return "tokens per round not told" if rate is None else f"{rate:.2f} tokens per round"
