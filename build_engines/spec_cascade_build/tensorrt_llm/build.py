"""`spec-cascade build` of a pair with `engine: tensorrt_llm`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade_build.directory import check_replaceable, replaced
from spec_cascade_build.pair import check_rule
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import step
from spec_cascade_build.tensorrt_llm.checked import CheckedPair, check_pair
from spec_cascade_build.tensorrt_llm.configs import configs_directory
from spec_cascade_build.tensorrt_llm.inputs import find_inputs
from spec_cascade_build.tensorrt_llm.machine import check_machine, library_versions
from spec_cascade_build.tensorrt_llm.plan import plan_build
from spec_cascade_build.tensorrt_llm.report import print_check, print_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rich.console import Console

    from spec_cascade.engines.manifest import Manifest
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection


def check(pair: Pair, pair_path: Path, configs: Path | None, console: Console, out: Console) -> CheckedPair:
    """Check a pair without a GPU and without weights, and print what was found.

    Args:
        pair: The pair.
        pair_path: Its file.
        configs: Configuration files of hub models; None looks where the environment says, else on the hub.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: A field does not fit the models or the GPU.
        BuildError: A model cannot be found or planned for.
    """
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    checked = check_pair(pair, pair_path, configs_directory(configs), console)
    print_check(pair, checked, out)
    return checked


def dry_run(pair: Pair, pair_path: Path, directory: Path, configs: Path | None, console: Console, out: Console) -> None:
    """Check a pair, then print every command and every file of its build.

    Args:
        pair: The pair.
        pair_path: Its file.
        directory: The engine directory.
        configs: As for `check`.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: As for `check`.
        BuildError: As for `check`.
    """
    checked = check(pair, pair_path, configs, console, out)
    plan = plan_build(pair, checked, pair_path.parent, directory.absolute())
    print_plan(plan, pair, checked, directory, out)


def build_engine(
    pair: Pair,
    pair_path: Path,
    directory: Path,
    console: Console,
    up_to_date: Callable[[str], Manifest | None],
    *,
    force: bool = False,
) -> tuple[Manifest, bool]:
    """Build an engine directory, unless it is there.

    Args:
        pair: The pair.
        pair_path: Its file.
        directory: The engine directory, replaced as a whole.
        console: Shows progress.
        up_to_date: The manifest that is in the directory, given a key, if the directory is whole and has that key.
        force: Build, and quantise, whatever is there.

    Returns:
        The manifest, and whether it was there already.

    Raises:
        PairError: The pair file is wrong.
        BuildError: The machine, a model or a command does not allow the build. Logs and quantised checkpoints that
            are finished stay beside ``directory``; the next try goes on from there.
    """
    section = _section(pair)
    try:
        gpus = check_machine(section)
    except ConfigError as error:
        raise PairError.of(pair_path, error) from None
    versions = library_versions(
        quantised=section.quantisation("target") != "none" or section.quantisation("drafter") != "none"
    )
    inputs = find_inputs(pair, pair_path.parent, versions, gpus[0], console)
    if not force and (manifest := up_to_date(inputs.key)) is not None:
        return manifest, True
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    check_replaceable(directory)
    checked = check_pair(pair, pair_path, None, console, lambda: gpus)

    # Loads transformers.
    from spec_cascade_build.tensorrt_llm.engine import LlmEngineWriter
    from spec_cascade_build.tensorrt_llm.running import working

    final = directory.absolute()
    with working(final, console) as work:
        if force:
            work.forget()
        with replaced(directory) as new:
            manifest = LlmEngineWriter(pair, checked, inputs, pair_path.parent, new, final, work, console).write()
        work.clear()
    return manifest, False


def _section(pair: Pair) -> TensorrtLlmSection:
    if pair.tensorrt_llm is None:
        raise ValueError("not a pair of engine tensorrt_llm")
    return pair.tensorrt_llm
