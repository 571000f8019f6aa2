"""`manifest.json`: what an engine directory holds, and whether it is all there.

Written last by a build, so a directory with a manifest is a finished one. Imports nothing heavy: a process that only
wants to know what an engine is reads it in milliseconds.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from spec_cascade.engines.model_reference import TensorrtLlmEntry
from spec_cascade.errors import EngineError, did_you_mean
from spec_cascade.processor import instruction_sets

if TYPE_CHECKING:
    from collections.abc import Callable

FORMAT = 2
FILE_NAME = "manifest.json"
WEIGHTS = "model.safetensors"
SHARED_TENSORS = "shared_tensors.json"
"""Of a drafter that has tensors of the target's: names of its own -> what they are called there."""
TRIMMED_HEAD = "head.safetensors"
"""Of a drafter that can propose some tokens only: which."""
LLM_CONFIG = "llm.yaml"
"""The arguments of TensorRT-LLM's LLM API, of an engine that runs there."""
AUTOTUNER_CACHE = "autotuner/cache.json"
"""What `TLLM_AUTOTUNER_CACHE_PATH` names; TensorRT-LLM adds ranks to the name, and writes there, so no hash is kept."""
_CHUNK = 1 << 22

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetEntry:
    """The target.

    Attributes:
        dtype: Type of the weights on disk: ``bfloat16`` or ``float32``.
    """

    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrafterEntry:
    """The drafter.

    Attributes:
        kind: ``model`` (``drafter/`` holds it), ``prompt_lookup`` (n-grams of the text so far) or ``none``.
        min_ngram: Shortest n-gram that prompt lookup matches; None for other kinds.
        max_ngram: Longest n-gram that prompt lookup matches; None for other kinds.
    """

    kind: str
    min_ngram: int | None = None
    max_ngram: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledEntry:
    """What the compiled models, ``compiled.pt2`` beside each, run on.

    Attributes:
        processor: Architecture and instruction sets of the machine that compiled them.
        torch: Version of torch that did.
    """

    processor: str
    torch: str

    @classmethod
    def here(cls) -> CompiledEntry:
        """Of this machine, as it would compile now."""
        return cls(processor=instruction_sets(), torch=version("torch"))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDefaults:
    """What the engine does when a request says nothing, and what it accepts; lengths in tokens.

    Attributes:
        rule: Deferral rule in `parse_rule` syntax.
        draft_length: K of a request that names none; -1 picks it round by round.
        max_draft_length: Largest K.
        fallback: Whether that K gives way to plain decoding while drafts do not pay.
        draft_mode: What a model drafts: ``sampled`` tokens, or the ``argmax`` of its rows.
        draft_confidence: A model's draft ends where max q~ falls below this; 0 never ends one early.
        max_batch_size: Requests decoded at a time.
        max_seq_len: Prompt and output of one request.
        max_queue_size: Requests that may wait.
        prefill_chunk: Most prompt tokens of one request in one forward.
    """

    rule: str
    draft_length: int
    max_draft_length: int
    fallback: bool
    draft_mode: str
    draft_confidence: float
    max_batch_size: int
    max_seq_len: int
    max_queue_size: int
    prefill_chunk: int

    def __post_init__(self) -> None:
        """Refuse what no build writes: an engine would run on with something else than the manifest says."""
        longest = self.max_draft_length
        for name, holds, allowed in (
            ("max_draft_length", longest >= 0, "in [0, inf)"),
            ("draft_length", -1 <= self.draft_length <= longest, f"in [-1, {longest}]"),
            ("draft_mode", self.draft_mode in ("sampled", "argmax"), "sampled or argmax"),
            ("draft_confidence", 0 <= self.draft_confidence < 1, "in [0, 1)"),
        ):
            if not holds:
                raise ValueError(f"manifest.defaults.{name} is {getattr(self, name)!r}, not {allowed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The vocabulary that both models share.

    Attributes:
        vocab_size: Ids that exist; logits beyond are padding.
        target_logits: Width of the target's logits.
        drafter_logits: Width of the drafter's logits; None when the drafter is no model.
        eos_token_ids: Ids that end an answer.
        tokenizer_hash: SHA-256 of ``tokenizer/tokenizer.json``.
    """

    vocab_size: int
    target_logits: int
    drafter_logits: int | None
    eos_token_ids: tuple[int, ...]
    tokenizer_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """Content of one file: SHA-256 in hexadecimal and size in bytes."""

    sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, advance: Callable[[int], None] | None = None) -> FileEntry:
        """Hash a file; ``advance`` is told the bytes of each chunk."""
        return cls(sha256=sha256_of(path, advance), size=path.stat().st_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """An engine directory in one file.

    Attributes:
        format: Number of this layout.
        name: The pair's name.
        engine: Which engine runs it: ``pytorch`` or ``tensorrt_llm``.
        target: The target.
        drafter: The drafter.
        compiled: The compiled models; None where there are none.
        defaults: Defaults and limits.
        vocabulary: The shared vocabulary.
        files: Content of every file, by POSIX path relative to the directory.
        versions: Versions of the libraries that made it.
        key: Hash of everything that determined the build; two builds with one key are the same.
        tensorrt_llm: What TensorRT-LLM runs; None for other engines.
    """

    format: int
    name: str
    engine: str
    target: TargetEntry
    drafter: DrafterEntry
    compiled: CompiledEntry | None
    defaults: EngineDefaults
    vocabulary: Vocabulary
    files: dict[str, FileEntry]
    versions: dict[str, str]
    key: str
    tensorrt_llm: TensorrtLlmEntry | None = None

    @classmethod
    def read(cls, engine_dir: Path | str) -> Manifest:
        """Read the manifest of an engine directory.

        Raises:
            EngineError: There is no finished engine, or its manifest is not one that this version reads.
        """
        directory = Path(engine_dir)
        if not directory.is_dir():
            raise EngineError(f"{directory}: no such engine directory")
        path = directory / FILE_NAME
        if not path.is_file():
            raise EngineError(f"{directory} is not a finished engine (no {FILE_NAME}): run spec-cascade build")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise EngineError(f"{path} cannot be read: {error}") from error
        try:
            return cls._from_json(data)
        except ValueError as error:
            raise EngineError(f"{path}: {error}: run spec-cascade build again") from None

    @classmethod
    def _from_json(cls, data: object) -> Manifest:
        found = data.get("format") if isinstance(data, dict) else None
        if isinstance(data, dict) and "format" in data and found != FORMAT:
            raise ValueError(f"format {found!r} is not {FORMAT}, the one this version reads")
        return _parsed(cls, data, "manifest")

    def write(self, engine_dir: Path) -> None:
        """Write the manifest into an engine directory: the last step of a build."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        (engine_dir / FILE_NAME).write_text(text, encoding="utf-8")

    def check(self, engine_dir: Path | str, advance: Callable[[int], None] | None = None) -> None:
        """Verify that every file is there with its size and hash.

        Args:
            engine_dir: The directory that the manifest came from.
            advance: Told the bytes of each chunk as it is hashed, for a progress bar.

        Raises:
            EngineError: A file is missing or differs; the first one, in the order of names, is named.
        """
        directory = Path(engine_dir)
        for name, entry in sorted(self.files.items()):
            path = directory / name
            if not path.is_file():
                raise EngineError(f"{directory}: {name} is missing: run spec-cascade build again")
            size = path.stat().st_size
            if size != entry.size:
                raise EngineError(
                    f"{directory}: {name} has {size} bytes instead of {entry.size}: run spec-cascade build again"
                )
            if sha256_of(path, advance) != entry.sha256:
                raise EngineError(f"{directory}: {name} is damaged (its hash differs): run spec-cascade build again")


def sha256_of(path: Path, advance: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file in hexadecimal, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if advance is not None:
                advance(len(chunk))
    return digest.hexdigest()


def _parsed(kind: type[T], data: object, where: str) -> T:
    """Build a dataclass of this module from its JSON; ValueError names the first field that does not fit."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not an object")
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise ValueError(f"{where} has an unknown field {name!r}{did_you_mean(name, known)}")
    for name, field in known.items():
        if name not in data and field.default is MISSING:
            raise ValueError(f"{where} has no field {name!r}")
    return kind(**{name: _value(hints[name], item, f"{where}.{name}") for name, item in data.items()})


def _value(kind: Any, data: object, where: str) -> object:
    if is_dataclass(kind):
        return _parsed(kind, data, where)  # type: ignore[arg-type]
    arguments = get_args(kind)
    if isinstance(kind, UnionType):
        return None if data is None else _value(arguments[0], data, where)
    if get_origin(kind) is dict and isinstance(data, dict):
        return {name: _value(arguments[1], item, f"{where}[{name!r}]") for name, item in data.items()}
    if get_origin(kind) is tuple and isinstance(data, list):
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if isinstance(kind, type) and type(data) is kind:
        return data
    expected = kind.__name__ if isinstance(kind, type) and not arguments else str(kind)
    raise ValueError(f"{where} is {data!r}, not of type {expected}")
