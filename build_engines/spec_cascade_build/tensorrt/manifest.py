"""What stands beside compiled engines: `tokenizer/` and `manifest.json`, written where they are not as they should be.

They depend on more of a pair file than the engines do, and cost little: every build works them out again.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.manifest import (
    FILE_NAME,
    FORMAT,
    DrafterEntry,
    EngineDefaults,
    FileEntry,
    Manifest,
    TargetEntry,
    Vocabulary,
)
from spec_cascade.errors import EngineError
from spec_cascade_build.digest import digest
from spec_cascade_build.directory import replaced, workshop

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt.checked import CheckedModels
    from spec_cascade_build.tensorrt.run import CompiledPair


def write_manifest(pair: Pair, checked: CheckedModels, compiled: CompiledPair, output: Path) -> tuple[Manifest, bool]:
    """Write the tokenizer and the manifest of compiled engines, each unless it is there.

    Args:
        pair: The pair.
        checked: What is known of its models, their tokenizer among it.
        compiled: The engines.
        output: The engine directory, locked.

    Returns:
        The manifest, and whether it and the tokenizer were there already.
    """
    if checked.tokenizer is None:
        raise ValueError("models whose tokenizers were not compared")
    tokenizer, was_there = _write_tokenizer(checked.tokenizer, output)
    manifest = _manifest(pair, checked, compiled, tokenizer)
    if manifest == _present(output):
        return manifest, was_there
    with workshop(output, ".manifest-") as shop:
        manifest.write(shop)
        (shop / FILE_NAME).replace(output / FILE_NAME)
    return manifest, False


def _write_tokenizer(tokenizer: PreTrainedTokenizerFast, output: Path) -> tuple[dict[str, FileEntry], bool]:
    """Its files by POSIX path in ``output``, and whether they were there."""
    place = output / "tokenizer"
    with workshop(output, ".tokenizer-") as shop:
        tokenizer.save_pretrained(shop, save_jinja_files=False)
        files = _entries(shop)
        was_there = place.is_dir() and _entries(place) == files
        if not was_there:
            with replaced(place) as new:
                for name in files:
                    (shop / name).rename(new / name)
    return {f"tokenizer/{name}": entry for name, entry in files.items()}, was_there


def _entries(directory: Path) -> dict[str, FileEntry]:
    return {path.name: FileEntry.of(path) for path in sorted(directory.iterdir())}


def _manifest(pair: Pair, checked: CheckedModels, compiled: CompiledPair, tokenizer: dict[str, FileEntry]) -> Manifest:
    target, drafter = compiled.engines["target"], compiled.engines["drafter"]
    values: dict[str, Any] = pair.defaults.model_dump()
    defaults = EngineDefaults(**values)
    vocabulary = Vocabulary(
        vocab_size=checked.vocabulary.size,
        target_logits=target.logits,
        drafter_logits=drafter.logits,
        eos_token_ids=checked.eos_token_ids,
        tokenizer_hash=tokenizer["tokenizer/tokenizer.json"].sha256,
    )
    deciding = {
        "format": FORMAT,
        "engines": compiled.key,
        "name": pair.name,
        "defaults": asdict(defaults),
        "vocabulary": asdict(vocabulary),
        "tokenizer": {name: asdict(entry) for name, entry in tokenizer.items()},
    }
    return Manifest(
        format=FORMAT,
        name=pair.name,
        engine=pair.engine,
        target=TargetEntry(dtype=target.dtype),
        drafter=DrafterEntry(kind="model"),
        compiled=None,
        defaults=defaults,
        vocabulary=vocabulary,
        files=compiled.files | tokenizer,
        versions=compiled.versions,
        key=digest(deciding),
    )


def _present(output: Path) -> Manifest | None:
    try:
        return Manifest.read(output)
    except EngineError:
        return None
