"""`spec-cascade build` of a pair with `engine: tensorrt`: from a pair file to a plan, and from a plan to engines."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade.engines.manifest import FileEntry
from spec_cascade.errors import ConfigError
from spec_cascade_build.directory import replaced, workshop
from spec_cascade_build.pair import check_rule
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fetched, fingerprint
from spec_cascade_build.tensorrt.limits import check_pair
from spec_cascade_build.tensorrt.plan import ModelSource, Plan, make_plan
from spec_cascade_build.tensorrt.run import CompiledPair, run_plan
from spec_cascade_build.tensorrt.survey import describe
from spec_cascade_build.tensorrt.tools import find_tools
from spec_cascade_build.tensorrt_llm.configs import configs_directory, find_configs
from spec_cascade_build.vocabulary import check_same_vocabulary

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.sources import Checkpoint
    from spec_cascade_build.tensorrt.section import Role, TensorrtSection


def check(
    pair: Pair, section: TensorrtSection, pair_path: Path, configs: Path | None, console: Console, out: Console
) -> Plan:
    """Check a pair without a GPU, without weights and without TensorRT-LLM, and print what was found.

    Args:
        pair: The pair.
        section: Its `tensorrt` section.
        pair_path: Its file.
        configs: Configuration files of hub models; None looks where the environment says, else on the hub.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: A field does not fit the engine or a model.
        BuildError: A model cannot be found or converted.
    """
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    plan = _planned(pair, section, pair_path, Path("engines") / pair.name, configs, console, hashed=False)
    _print(out, f"{pair.name}: both models can be converted and compiled, for {section.tensor_parallel_size} GPU(s)")
    for trouble in plan.tools.trouble:
        _print(out, f"note: not on this machine: {trouble}")
    return plan


def dry_run(
    pair: Pair,
    section: TensorrtSection,
    pair_path: Path,
    directory: Path,
    configs: Path | None,
    console: Console,
    out: Console,
) -> Plan:
    """Print every command and directory of a build, and what it would skip; nothing is run or written.

    Args:
        pair: The pair.
        section: Its `tensorrt` section.
        pair_path: Its file.
        directory: The engine directory.
        configs: As for `check`.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: As for `check`.
        BuildError: As for `check`.
    """
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    plan = _planned(pair, section, pair_path, directory, configs, console, hashed=True)
    _print(out, describe(plan).rstrip())
    return plan


def build_engines(
    pair: Pair, section: TensorrtSection, pair_path: Path, directory: Path, console: Console, *, force: bool = False
) -> CompiledPair:
    """Build both engines of a pair, unless they are there, and put the tokenizer beside them.

    Args:
        pair: The pair.
        section: Its `tensorrt` section.
        pair_path: Its file.
        directory: The engine directory.
        console: Told what starts and ends.
        force: Run every step.

    Raises:
        PairError: A field does not fit the engine or a model.
        BuildError: A model cannot be fetched or converted, the tokenizers differ, or a command failed.
    """
    base = pair_path.parent
    try:
        check_pair(pair)
        tools = find_tools(section.examples, base)
        # Before a hundred gigabytes are fetched.
        tools.check()
        with step(console, "checking the rule"):
            check_rule(pair_path, pair)
        with ExitStack() as stack:
            checkpoints = {
                role: stack.enter_context(fetched(source, base, console)) for role, source in _sources(pair).items()
            }
            tokenizer = _tokenizer(checkpoints, console)
            sources = {
                role: ModelSource(checkpoints[role].directory, fingerprint(source, base, console))
                for role, source in _sources(pair).items()
            }
            built = run_plan(make_plan(pair, section, sources, tools, directory, base), console, force=force)
    except ConfigError as error:
        raise _in_file(pair_path, error) from None
    return replace(built, files=built.files | _write_tokenizer(tokenizer, directory.absolute()))


def _planned(
    pair: Pair,
    section: TensorrtSection,
    pair_path: Path,
    directory: Path,
    configs: Path | None,
    console: Console,
    *,
    hashed: bool,
) -> Plan:
    """A plan of models whose weights need not be there."""
    base, configs = pair_path.parent, configs_directory(configs)
    try:
        check_pair(pair)
        sources = {
            role: _without_weights(source, base, configs, console, hashed=hashed)
            for role, source in _sources(pair).items()
        }
        return make_plan(pair, section, sources, find_tools(section.examples, base), directory, base)
    except ConfigError as error:
        raise _in_file(pair_path, error) from None


def _sources(pair: Pair) -> dict[Role, Source]:
    """The two models of a pair that `check_pair` let pass."""
    if pair.drafter is None:
        raise ValueError("a pair without a drafter")
    return {"drafter": pair.drafter, "target": pair.target}


def _without_weights(
    source: Source, base: Path, configs: Path | None, console: Console, *, hashed: bool
) -> ModelSource:
    found = find_configs(source, base, configs, console)
    if source.hub is None:
        return ModelSource(found.directory, fingerprint(source, base, console) if hashed else {})
    commit = found.commit or source.revision or "main"
    directory = found.directory if configs is None else _snapshot(source.hub, commit)
    return ModelSource(directory, {"hub": source.hub, "commit": commit}, found.directory)


def _snapshot(hub: str, commit: str) -> Path:
    """Where the hub's library will keep a model."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub.replace('/', '--')}" / "snapshots" / commit


def _tokenizer(checkpoints: Mapping[Role, Checkpoint], console: Console) -> PreTrainedTokenizerFast:
    """The target's, which the drafter has as well: hours of compiling are not spent on two that differ."""
    from spec_cascade_build.checkpoints import read_tokenizer

    with step(console, "comparing the tokenizers"):
        target, drafter = (read_tokenizer(checkpoints[role]) for role in ("target", "drafter"))
        check_same_vocabulary(target, drafter)
    return target


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, output: Path) -> dict[str, FileEntry]:
    """Write `tokenizer/`, unless it is there as it would be written; its files, by POSIX path in ``output``."""
    place = output / "tokenizer"
    with workshop(output, ".tokenizer-") as shop:
        tokenizer.save_pretrained(shop, save_jinja_files=False)
        files = {path.name: FileEntry.of(path) for path in sorted(shop.iterdir())}
        if files != ({path.name: FileEntry.of(path) for path in sorted(place.iterdir())} if place.is_dir() else None):
            with replaced(place) as new:
                for path in shop.iterdir():
                    path.rename(new / path.name)
    return {f"tokenizer/{name}": entry for name, entry in files.items()}


def _in_file(pair_path: Path, error: ConfigError) -> PairError:
    return error if isinstance(error, PairError) else PairError(pair_path, error.field, error.value, error.allowed)


def _print(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
