"""The verb `doctor`."""

from __future__ import annotations

import contextlib
import json
import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from spec_cascade.engines.tensorrt_llm.smoke import TIMEOUT_SECONDS, SmokeJob, run_apart

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade.engines.tensorrt_llm.doctor import Diagnosis

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("doctor")(doctor)


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    model: Annotated[str | None, typer.Option(help="Target to try a generation with.")] = None,
    drafter: Annotated[str | None, typer.Option(help="Drafter to try a generation with.")] = None,
    rule: Annotated[str, typer.Option(help="Deferral rule to try beside strict.")] = "token_v3:alpha=0.5",
    draft_length: Annotated[int, typer.Option(min=1, help="Tokens to draft per round.")] = 4,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs to try it on.")] = 1,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds that an engine may take to start and answer.")
    ] = TIMEOUT_SECONDS,
    install_hook: Annotated[bool, typer.Option("--install-hook", help="Write the workers' start-up hook.")] = False,
    remove_hook: Annotated[bool, typer.Option("--remove-hook", help="Remove it.")] = False,
) -> None:
    """Examine TensorRT-LLM as it is installed here: versions, contracts, environment, and a generation with a pair.

    Ends with status 1 where a promise that we rely on is broken.
    """
    from rich.console import Console

    from spec_cascade.engines.tensorrt_llm.doctor import examine
    from spec_cascade.engines.tensorrt_llm.hook import install_hook as install
    from spec_cascade.engines.tensorrt_llm.hook import remove_hook as remove
    from spec_cascade.errors import ConfigError

    console = Console(highlight=False)
    if install_hook and remove_hook:
        raise ConfigError("--remove-hook", True, "left out beside --install-hook")
    if (model is None) != (drafter is None):
        raise ConfigError("--drafter" if drafter is None else "--model", None, "given: a pair is both of them")
    if install_hook:
        console.print(f"{install()}: installed", soft_wrap=True, markup=False)
        return
    if remove_hook:
        console.print("start-up hook: " + ("removed" if remove() else "there was none"))
        return
    job = None
    if model is not None and drafter is not None:
        job = SmokeJob(
            model=model,
            drafter=drafter,
            rules=(rule,),
            draft_length=draft_length,
            tensor_parallel_size=tensor_parallel_size,
        )
    # TensorRT-LLM greets whoever imports it, on the stream that JSON is expected on.
    with contextlib.redirect_stdout(sys.stderr):
        diagnosis = examine(job, run_job=partial(run_apart, timeout_seconds=timeout))
    if as_json:
        console.out(json.dumps(diagnosis.as_dict(), indent=2), highlight=False)
    else:
        _print(console, diagnosis)
    if not diagnosis.healthy:
        raise typer.Exit(1)


def _print(console: Console, diagnosis: Diagnosis) -> None:
    from rich.text import Text

    part = ""
    for check in diagnosis.checks:
        if check.part != part:
            part = check.part
            console.print(f"\n{part}", style="bold")
        line = Text.assemble(("  " + check.state.ljust(8), _STYLES[check.state]), check.name, ": ", check.detail)
        console.print(line, soft_wrap=True)
    failure = diagnosis.first_failure
    if failure is None:
        console.print("\nthe verifier fits", style="bold green")
    else:
        text = f"\nthe verifier does not fit: {failure.name}: {failure.detail}"
        console.print(Text(text, style="bold red"), soft_wrap=True)
