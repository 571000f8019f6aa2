"""The content of an engine directory.

target/     config.json  generation_config.json  model.safetensors
drafter/    the same for a model of its own; config.json and shared_tensors.json for a pruned target;
            not there for prompt lookup or no drafter
            (compiled.pt2 beside each model of a pair that is compiled, compiled_int8.pt2 beside its drafter)
tokenizer/  tokenizer.json  tokenizer_config.json (with the chat template)  special_tokens_map.json
manifest.json
"""

from __future__ import annotations

from pathlib import Path
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
from spec_cascade_build.checkpoints import WrittenModel, read_tokenizer, write_model, write_pruned
from spec_cascade_build.compiling import compile_models
from spec_cascade_build.drafter.made import install
from spec_cascade_build.lengths import check_length
from spec_cascade_build.progress import step
from spec_cascade_build.sources import fetched, fingerprint
from spec_cascade_build.vocabulary import check_same_vocabulary, check_width, vocab_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair, Source


class EngineWriter:
    """Writes one engine directory.

    Args:
        pair: What to build.
        base: Where the pair's relative paths start.
        directory: An empty directory.
        console: Shows what is being done, and since when.
    """

    def __init__(self, pair: Pair, base: Path, directory: Path, console: Console) -> None:
        self._pair = pair
        self._base = base
        self._directory = directory
        self._console = console

    def write(self, key: str, versions: dict[str, str]) -> Manifest:
        """Write everything, the manifest last.

        Raises:
            ConfigError: A field of the pair does not fit the models.
            BuildError: A source, checkpoint or vocabulary does not allow the build.
        """
        pair, directory = self._pair, self._directory
        tokenizer, target = self._model("target", pair.target)
        tokenizer.save_pretrained(directory / "tokenizer", save_jinja_files=False)
        drafter_logits = self._write_drafter(tokenizer, target)
        compiled = None
        if pair.compile:
            compiled = compile_models(directory, pair.dtype, self._console, int8_drafter=pair.int8_drafter)
        with step(self._console, "hashing"):
            files = {name: FileEntry.of(directory / name) for name in _file_names(directory)}
        manifest = Manifest(
            format=FORMAT,
            name=pair.name,
            engine=pair.engine,
            target=TargetEntry(dtype=pair.dtype),
            drafter=_drafter_entry(pair),
            compiled=compiled,
            defaults=_defaults(pair),
            vocabulary=Vocabulary(
                vocab_size=vocab_size(tokenizer),
                target_logits=target.logits,
                drafter_logits=drafter_logits,
                eos_token_ids=target.eos_token_ids,
                tokenizer_hash=files["tokenizer/tokenizer.json"].sha256,
            ),
            files=files,
            versions=versions,
            key=key,
        )
        manifest.write(directory)
        return manifest

    def _write_drafter(self, tokenizer: PreTrainedTokenizerFast, target: WrittenModel) -> int | None:
        """Write the drafter, and return the width of its logits; None for a drafter that is no model."""
        drafter = self._pair.drafter
        if drafter is None or drafter.prompt_lookup is not None:
            return None
        if drafter.prune is not None:
            write_pruned(target, drafter.prune.layers, self._directory / "drafter")
            return target.logits
        if drafter.make is not None:
            return self._install(drafter.make.place(self._base), target)
        drafter_tokenizer, model = self._model("drafter", drafter)
        check_same_vocabulary(tokenizer, drafter_tokenizer)
        return model.logits

    def _install(self, made: Path, target: WrittenModel) -> int:
        """Write a drafter that `drafter make` made; return the width of its logits."""
        identity = fingerprint(self._pair.target, self._base, self._console)
        with step(self._console, f"installing the drafter {made}"):
            width = install(made, target.config, identity, self._pair.dtype, self._directory / "drafter")
        return target.logits if width is None else width

    def _model(self, whose: str, source: Source) -> tuple[PreTrainedTokenizerFast, WrittenModel]:
        """Fetch, check and write one model."""
        with fetched(source, self._base, self._console) as checkpoint:
            with step(self._console, f"reading the {whose}'s tokenizer"):
                tokenizer = read_tokenizer(checkpoint)
            with step(self._console, f"converting the {whose} to {self._pair.dtype}"):
                model = write_model(checkpoint, self._pair.dtype, self._directory / whose)
        check_width(whose, model.logits, vocab_size(tokenizer))
        limit = getattr(model.config, "max_position_embeddings", None)
        check_length(whose, limit, self._pair.defaults.max_seq_len)
        return tokenizer, model


def _file_names(directory: Path) -> Iterator[str]:
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield path.relative_to(directory).as_posix()


def _drafter_entry(pair: Pair) -> DrafterEntry:
    if pair.drafter is None:
        return DrafterEntry(kind="none")
    if (lookup := pair.drafter.prompt_lookup) is not None:
        return DrafterEntry(kind="prompt_lookup", min_ngram=lookup.min_ngram, max_ngram=lookup.max_ngram)
    return DrafterEntry(kind="model")


def _defaults(pair: Pair) -> EngineDefaults:
    values: dict[str, Any] = pair.defaults.model_dump()
    if pair.drafter is None:
        values |= {"draft_length": 0, "max_draft_length": 0}
    return EngineDefaults(**values)
