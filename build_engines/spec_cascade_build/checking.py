"""`spec-cascade build --check` and `--dry-run`: a pair file judged before anything is built, on any machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spec_cascade_build.errors import BuildError
from spec_cascade_build.pair import Pair, check_rule, load_pair
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fingerprint_made

if TYPE_CHECKING:
    from rich.console import Console

    from spec_cascade_build.pair import Source


def check(pair_path: Path, configs: Path | None, console: Console, out: Console) -> None:
    """Check a pair file, and print what was found.

    Args:
        pair_path: The pair file.
        configs: Directory of configuration files of hub models; None asks the hub.
        console: Shows progress.
        out: Takes the result.

    Raises:
        PairError: The pair file is wrong.
        BuildError: A source does not allow the build.
    """
    pair = load_pair(pair_path)
    if pair.engine == "tensorrt_llm":
        from spec_cascade_build.tensorrt_llm.build import check as check_tensorrt_llm

        check_tensorrt_llm(pair, pair_path, configs, console, out)
        return
    if pair.engine == "tensorrt":
        from spec_cascade_build.tensorrt.build import check as check_tensorrt

        check_tensorrt(pair, pair_path, configs, console, out)
        return
    _check_pytorch(pair, pair_path, configs, console)
    _line(out, f"{pair.name}: the pair file, its rule and the sources on this machine are right")
    _line(out, "note: whether the models fit each other and the memory is seen when they are built and opened")


def dry_run(
    pair_path: Path, output: Path | None, configs: Path | None, console: Console, out: Console, *, force: bool = False
) -> None:
    """Check a pair file, and print what a build would run and write.

    Args:
        pair_path: The pair file.
        output: The engine directory; None means ``engines/<name of the pair>``.
        configs: As for `check`.
        console: Shows progress.
        out: Takes the result.
        force: Of a build that does all, whatever is there.

    Raises:
        PairError: As for `check`.
        BuildError: As for `check`.
    """
    pair = load_pair(pair_path)
    directory = output or Path("engines") / pair.name
    if pair.engine == "tensorrt_llm":
        from spec_cascade_build.tensorrt_llm.build import dry_run as dry_run_tensorrt_llm

        dry_run_tensorrt_llm(pair, pair_path, directory, configs, console, out)
        return
    if pair.engine == "tensorrt":
        from spec_cascade_build.tensorrt.build import dry_run as dry_run_tensorrt

        dry_run_tensorrt(pair, pair_path, directory, configs, console, out, force=force)
        _line(out, f"{pair.name}: nothing was run and nothing was written")
        return
    _check_pytorch(pair, pair_path, configs, console)
    for line in _pytorch_steps(pair, directory):
        _line(out, line)
    _line(out, f"{pair.name}: nothing was run and nothing was written")


def _check_pytorch(pair: Pair, pair_path: Path, configs: Path | None, console: Console) -> None:
    """All that is cheap: the embedded engine's models are judged when transformers has loaded them."""
    if configs is not None:
        raise BuildError(
            "--configs goes with TensorRT-LLM's engines; a pytorch build looks at the checkpoints themselves"
        )
    with step(console, "checking the rule"):
        check_rule(pair_path, pair)
    base = pair_path.parent
    for source in (pair.target, pair.drafter):
        if source is not None and source.path is not None:
            path = base / Path(source.path).expanduser()
            if not path.exists():
                raise BuildError(f"{path} is neither a checkpoint directory nor a .gguf file")
    if pair.drafter is not None and pair.drafter.make is not None:
        fingerprint_made(pair.drafter.make.place(base))


def _pytorch_steps(pair: Pair, directory: Path) -> list[str]:
    steps = [f"fetch target: {_named(pair.target)}", f"write: {directory / 'target'}/ (in {pair.dtype})"]
    drafter = pair.drafter
    if drafter is not None and drafter.is_model:
        steps += [f"fetch drafter: {_named(drafter)}", f"write: {directory / 'drafter'}/ (in {pair.dtype})"]
    elif drafter is not None and drafter.prompt_lookup is None:
        kind = "layers of the target's" if drafter.prune is not None else "as it was made"
        steps.append(f"write: {directory / 'drafter'}/ ({kind})")
    steps.append(f"write: {directory / 'tokenizer'}/")
    if pair.compile:
        steps.append(f"compile: both models, for this machine's processor, beside their weights in {directory}")
    steps.append(f"write: {directory / 'manifest.json'} (hashes of these files, versions of the libraries)")
    return steps


def _named(source: Source) -> str:
    if source.package is not None:
        return f"{source.package.file} of {source.package.name} {source.package.version}"
    return f"{source.hub} at {source.revision or 'main'}" if source.hub is not None else str(source.path)


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
