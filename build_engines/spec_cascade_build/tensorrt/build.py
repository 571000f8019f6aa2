"""`spec-cascade build` of a pair with `engine: tensorrt`.

drafter/  target/   TensorRT engines, and what made them
tokenizer/          the target's
manifest.json
build/              checkpoints, logs and timings: for the next build
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade_build.pair import check_rule
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fetched, fingerprint
from spec_cascade_build.tensorrt.checked import CheckedModels, check_models, sources_of
from spec_cascade_build.tensorrt.limits import check_pair
from spec_cascade_build.tensorrt.manifest import write_manifest
from spec_cascade_build.tensorrt.plan import ModelSource, Plan, Step, make_plan
from spec_cascade_build.tensorrt.run import run_plan
from spec_cascade_build.tensorrt.section import TensorrtSection
from spec_cascade_build.tensorrt.survey import describe
from spec_cascade_build.tensorrt.tools import find_tools
from spec_cascade_build.tensorrt_llm.configs import configs_directory

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade.engines.manifest import Manifest
    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.tensorrt.section import Role
    from spec_cascade_build.tensorrt_llm.configs import Configs


def check(pair: Pair, pair_path: Path, configs: Path | None, console: Console, out: Console) -> None:
    """Check a pair without a GPU, without weights and without TensorRT-LLM, and print what was found.

    Args:
        pair: The pair.
        pair_path: Its file.
        configs: Configuration files of hub models; None looks where the environment says, else on the hub.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: A field does not fit the engine or a model.
        BuildError: A model cannot be found or converted, or the models do not share a vocabulary.
    """
    checked, plan = _planned(pair, pair_path, Path("engines") / pair.name, configs, console, hashed=False)
    _print(out, f"{pair.name}: the pair file, its rule and what the engines are built for are right")
    for note in checked.notes:
        _print(out, f"note: {note}")
    for trouble in plan.tools.trouble:
        _print(out, f"note: it cannot be built here: {trouble}")


def dry_run(
    pair: Pair,
    pair_path: Path,
    directory: Path,
    configs: Path | None,
    console: Console,
    out: Console,
    *,
    force: bool = False,
) -> None:
    """Check a pair, and print every command and directory of its build; nothing is run or written.

    Args:
        pair: The pair.
        pair_path: Its file.
        directory: The engine directory.
        configs: As for `check`.
        console: Shows progress.
        out: Takes the result.
        force: Of a build that runs every step.

    Raises:
        PairError: As for `check`.
        BuildError: As for `check`.
    """
    checked, plan = _planned(pair, pair_path, directory, configs, console, hashed=True)
    for note in (*checked.notes, *_unknown_commits(pair, checked)):
        _print(out, f"note: {note}")
    _print(out, describe(plan, force=force).rstrip())
    _print(out, f"then {directory / 'tokenizer'}/ and {directory / 'manifest.json'} are written, where they differ")


def build_engines(
    pair: Pair, pair_path: Path, directory: Path, console: Console, *, force: bool = False
) -> tuple[Manifest, bool]:
    """Build what is not there yet of an engine directory.

    Args:
        pair: The pair.
        pair_path: Its file.
        directory: The engine directory.
        console: Shows progress.
        force: Run every step, whatever is there.

    Returns:
        The manifest, and whether all was there already.

    Raises:
        PairError: A field does not fit the engine or a model.
        BuildError: The machine, a model or a command does not allow the build.
    """
    section, base = _section(pair), pair_path.parent
    tools = find_tools(section.examples, base)
    try:
        check_pair(pair)
        # Before anything is fetched.
        tools.check()
        with step(console, "checking the rule"):
            check_rule(pair_path, pair)
        checked = check_models(pair, section, base, None, console, tokenizers=True)
        plan = make_plan(pair, section, _sources(pair, checked, base, console), tools, directory, base)
    except ConfigError as error:
        raise PairError.of(pair_path, error) from None
    with ExitStack() as stack:

        def fetch(conversion: Step) -> None:
            source = _pinned(sources_of(pair)[conversion.role], checked.configs[conversion.role])
            stack.enter_context(fetched(source, base, console))

        compiled = stack.enter_context(run_plan(plan, console, force=force, fetch=fetch))
        manifest, was_there = write_manifest(pair, checked, compiled, plan.output)
    return manifest, was_there and compiled.up_to_date


def _planned(
    pair: Pair, pair_path: Path, directory: Path, configs: Path | None, console: Console, *, hashed: bool
) -> tuple[CheckedModels, Plan]:
    """A check and a plan of models whose weights need not be there."""
    section, base = _section(pair), pair_path.parent
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    try:
        checked = check_models(pair, section, base, configs_directory(configs), console, tokenizers=False)
        sources = _sources(pair, checked, base, console, hashed=hashed)
        return checked, make_plan(pair, section, sources, find_tools(section.examples, base), directory, base)
    except ConfigError as error:
        raise PairError.of(pair_path, error) from None


def _section(pair: Pair) -> TensorrtSection:
    return pair.tensorrt or TensorrtSection()


def _sources(
    pair: Pair, checked: CheckedModels, base: Path, console: Console, *, hashed: bool = True
) -> dict[Role, ModelSource]:
    """Where the checkpoints are, or will be once they are fetched."""
    sources: dict[Role, ModelSource] = {}
    for role, source in sources_of(pair).items():
        found = checked.configs[role]
        if source.hub is None:
            sources[role] = ModelSource(found.directory, fingerprint(source, base, console) if hashed else {})
        else:
            commit = found.commit or f"commit-of-{source.revision or 'main'}"
            content = {"hub": source.hub, "commit": commit}
            sources[role] = ModelSource(_snapshot(source.hub, commit), content, found.directory)
    return sources


def _snapshot(hub: str, commit: str) -> Path:
    """Where the hub's library keeps a model."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}" / "snapshots" / commit


def _pinned(source: Source, found: Configs) -> Source:
    """The commit that was planned for, also where a branch has moved on since."""
    return source if found.commit is None else source.model_copy(update={"revision": found.commit})


def _unknown_commits(pair: Pair, checked: CheckedModels) -> list[str]:
    return [
        f"which commit {source.revision or 'main'} of {source.hub} is, --configs does not say: what is there of the "
        f"{role} counts as another"
        for role, source in sources_of(pair).items()
        if source.hub is not None and checked.configs[role].commit is None
    ]


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
