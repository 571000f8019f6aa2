"""What of a plan is there already, and the plan in words."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from spec_cascade_build.tensorrt.stamp import Stamp, difference

if TYPE_CHECKING:
    from spec_cascade_build.tensorrt.plan import Plan, Step


@dataclass(frozen=True, slots=True)
class State:
    """How a step stands.

    Attributes:
        kind: ``up to date``; ``not needed``: what would read its output is there; or ``to do``.
        reason: Why it is to be done; empty otherwise.
    """

    kind: Literal["up to date", "not needed", "to do"]
    reason: str = ""


def survey(plan: Plan, *, force: bool = False) -> dict[str, State]:
    """Compare the disk with a plan; nothing is written.

    A conversion is only asked for by an engine that has to be built, so that checkpoints can be deleted once the
    engines are there.

    Args:
        plan: The plan.
        force: Do every step, whatever is there.
    """
    states: dict[str, State] = {}
    readers: dict[str, list[str]] = {step.name: [] for step in plan.steps}
    for step in plan.steps:
        if step.needs is not None:
            readers[step.needs].append(step.name)
    # Readers stand behind what they read.
    for step in reversed(plan.steps):
        asking = [name for name in readers[step.name] if states[name].kind == "to do"]
        reason = "asked for" if force else _reason(step)
        if reason is None:
            states[step.name] = State("up to date")
        elif readers[step.name] and not asking:
            states[step.name] = State("not needed")
        else:
            states[step.name] = State("to do", reason)
    return {step.name: states[step.name] for step in plan.steps}


def _reason(step: Step) -> str | None:
    """Why a step has to be done; None where its output is whole and of the same making."""
    if not step.output.is_dir():
        return "not there yet"
    stamp = Stamp.read(step.output)
    if stamp is None:
        return f"{step.output} was not finished by a build"
    if stamp.key != step.key:
        return difference(stamp.identity, step.identity)
    return stamp.trouble(step.output)


def describe(plan: Plan, *, force: bool = False) -> str:
    """Every command and directory of a plan, and what would be skipped: what `--dry-run` prints."""
    states = survey(plan, force=force)
    lines = [f"{plan.name}: TensorRT engines in {plan.output}, by TensorRT-LLM {plan.tools.version or '(not found)'}"]
    lines += [f"cannot be run here: {trouble}" for trouble in plan.tools.trouble]
    lines.append(f"commands at a time: {plan.jobs}")
    for step in plan.steps:
        state = states[step.name]
        reason = f" ({state.reason})" if state.reason else ""
        lines += [
            "",
            f"{step.name}: {state.kind}{reason}",
            f"  after    {step.needs or 'nothing'}",
            f"  works in {step.partial}",
            f"  output   {step.output}",
            f"  log      {step.log}",
        ]
        if step.timing_cache is not None:
            lines.append(f"  timings  {step.timing_cache}")
        lines.append(f"  command  {shlex.join(step.command)}")
    checked = " and ".join(str(plan.output / role / "config.json") for role in plan.expected)
    lines += ["", f"then {checked} are read back and checked"]
    return "\n".join(lines) + "\n"
