"""`spec-cascade build` of a pair with `engine: tensorrt`: the checkpoints in front of the plan, the manifest behind it.

drafter/  target/   TensorRT engines, and what made them
tokenizer/          the target's
manifest.json
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import (
    FORMAT,
    DrafterEntry,
    EngineDefaults,
    FileEntry,
    Manifest,
    TargetEntry,
    Vocabulary,
)
from spec_cascade.errors import ConfigError, EngineError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import check_rule
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fetched, fingerprint
from spec_cascade_build.tensorrt.plan import ModelSource, make_plan
from spec_cascade_build.tensorrt.run import run_plan
from spec_cascade_build.tensorrt.section import TensorrtSection
from spec_cascade_build.tensorrt.tools import find_tools
from spec_cascade_build.tensorrt_llm.configs import configs_directory, find_configs
from spec_cascade_build.tensorrt_llm.facts import read_eos_token_ids

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.sources import Checkpoint
    from spec_cascade_build.tensorrt.plan import Plan
    from spec_cascade_build.tensorrt.run import CompiledPair
    from spec_cascade_build.tensorrt.section import Role


def planned(pair: Pair, pair_path: Path, directory: Path, configs: Path | None, console: Console) -> Plan:
    """Check a pair and plan its build, without a GPU and without weights.

    Args:
        pair: The pair.
        pair_path: Its file.
        directory: The engine directory.
        configs: Configuration files of hub models; None looks where the environment says, else on the hub.
        console: Shows progress.

    Raises:
        PairError: A field does not fit the models or another field.
        BuildError: A checkpoint cannot be found or converted.
    """
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    base, place = pair_path.parent, configs_directory(configs)
    sources: dict[Role, ModelSource] = {}
    for role, source in _sources(pair).items():
        found = find_configs(source, base, place, console)
        # Of a checkpoint on this machine the key is that of a build; of another one the weights are not known.
        known = fingerprint(source, base, console) if source.path is not None else {}
        content = known or {"hub": found.title, "commit": found.commit or source.revision or "main"}
        sources[role] = ModelSource(found.directory, content)
    return _plan(pair, pair_path, sources, directory)


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
        PairError: The pair file is wrong.
        BuildError: TensorRT-LLM is not there, a checkpoint cannot be used, or a command failed.
    """
    base = pair_path.parent
    tools = find_tools(_section(pair).examples, base)
    try:
        tools.check()
    except BuildError as error:
        raise BuildError(f"{error}. spec-cascade build --check and --dry-run work without") from None
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    with ExitStack() as stack:
        checkpoints = {
            role: stack.enter_context(fetched(source, base, console)) for role, source in _sources(pair).items()
        }
        tokenizer = _shared_tokenizer(checkpoints, console)
        sources = {
            role: ModelSource(checkpoints[role].directory, fingerprint(source, base, console))
            for role, source in _sources(pair).items()
        }
        compiled = run_plan(_plan(pair, pair_path, sources, directory), console, force=force)
        known = _known(directory, compiled)
        if known is not None:
            return known, True
        ends = read_eos_token_ids(checkpoints["target"].directory)
    return _write_manifest(pair, directory, compiled, tokenizer, ends), False


def _plan(pair: Pair, pair_path: Path, sources: dict[Role, ModelSource], directory: Path) -> Plan:
    section, base = _section(pair), pair_path.parent
    try:
        return make_plan(pair, section, sources, find_tools(section.examples, base), directory, base)
    except PairError:
        raise
    except ConfigError as error:
        raise PairError(pair_path, error.field, error.value, error.allowed) from None


def _section(pair: Pair) -> TensorrtSection:
    return pair.tensorrt or TensorrtSection()


def _sources(pair: Pair) -> dict[Role, Source]:
    if pair.drafter is None:
        raise ValueError("not a pair of engine tensorrt")
    return {"drafter": pair.drafter, "target": pair.target}


def _shared_tokenizer(checkpoints: dict[Role, Checkpoint], console: Console) -> PreTrainedTokenizerFast:
    """The target's tokenizer, which the drafter shares."""
    from spec_cascade_build.checkpoints import read_tokenizer
    from spec_cascade_build.vocabulary import check_same_vocabulary

    with step(console, "comparing the tokenizers"):
        target, drafter = read_tokenizer(checkpoints["target"]), read_tokenizer(checkpoints["drafter"])
        check_same_vocabulary(target, drafter)
    return target


def _known(directory: Path, compiled: CompiledPair) -> Manifest | None:
    """The manifest that is there, if it is of these engines and whole."""
    if not compiled.up_to_date:
        return None
    try:
        manifest = Manifest.read(directory)
        manifest.check(directory)
    except EngineError:
        return None
    return manifest if manifest.key == compiled.key else None


def _write_manifest(
    pair: Pair, directory: Path, compiled: CompiledPair, tokenizer: PreTrainedTokenizerFast, ends: tuple[int, ...]
) -> Manifest:
    from spec_cascade_build.vocabulary import check_width, vocab_size

    ids = vocab_size(tokenizer)
    for role, facts in compiled.engines.items():
        check_width(role, facts.vocab_size, ids)
    tokenizer.save_pretrained(directory / "tokenizer", save_jinja_files=False)
    written = {f"tokenizer/{path.name}": FileEntry.of(path) for path in sorted((directory / "tokenizer").iterdir())}
    values: dict[str, Any] = pair.defaults.model_dump()
    manifest = Manifest(
        format=FORMAT,
        name=pair.name,
        engine=pair.engine,
        target=TargetEntry(dtype=compiled.engines["target"].dtype),
        drafter=DrafterEntry(kind="model"),
        compiled=None,
        defaults=EngineDefaults(**values),
        vocabulary=Vocabulary(
            vocab_size=ids,
            target_logits=compiled.engines["target"].logits,
            drafter_logits=compiled.engines["drafter"].logits,
            eos_token_ids=ends,
            tokenizer_hash=written["tokenizer/tokenizer.json"].sha256,
        ),
        files=compiled.files | written,
        versions=compiled.versions,
        key=compiled.key,
    )
    manifest.write(directory)
    return manifest
