"""`drafter.make` of a pair file: how a drafter is made from the target."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from spec_cascade_build.section import Count, Section, refusal


class LayerChoice(Section):
    """Layers picked by a method, first and last among them."""

    count: int = Field(ge=2, description="an integer >= 2")
    by: Literal["spread", "importance"] = Field(
        default="spread",
        description="'spread' (evenly) or 'importance' (those without which the target agrees least with itself)",
    )


class TextRecipe(Section):
    """A text that the drafter learns from; the target writes it.

    Attributes:
        prompts: A file with one prompt a line; None lets the target write the prompts too, from where its chat
            template has the user speak.
        answers: How many answers it writes, prompts from a file being used in turn.
        max_prompt_tokens: Longest prompt that it writes for itself.
        max_answer_tokens: Longest answer.
        temperature: At which it samples; 0 is greedy.
        batch_size: Answers that are written at a time.
        shard: Answers in one file: what a kill can cost.
        compile: Compile the target for it, on a CPU: minutes that thousands of answers pay for.
    """

    prompts: str | None = Field(
        default=None,
        min_length=1,
        description="a text file, a prompt a line; a relative path starts at the pair file",
    )
    answers: Count = 4096
    max_prompt_tokens: Count = 64
    max_answer_tokens: Count = 256
    temperature: float = Field(default=1.0, ge=0, description="a number >= 0 (0 is greedy)")
    batch_size: Count = 64
    shard: Count = 256
    compile: bool = Field(default=False, description="true or false")


class TrainingRecipe(Section):
    """How the drafter learns: AdamW on the divergence of its rows from the target's, then on their overlap.

    Attributes:
        steps: Batches; each is one step.
        batch_size: Answers in a batch.
        learning_rate: At its height.
        warmup: Steps in which it rises from 0; after them it falls on a cosine to a tenth.
        weight_decay: Of AdamW.
        clip: Largest norm of a gradient.
        on_policy_steps: The last steps, in which each answer goes on with the drafter's own words from some place.
        on_policy_tokens: How many words of its own.
        overlap_steps: The last steps, in which the loss is what strict verification refuses: one less sum of min(p, q).
        held_out: Share of each text's answers that it is measured on and does not learn from.
        evaluate_every: Steps between two measurements, and between two checkpoints.
        patience: Measurements without a new best after which it stops; 0 never stops early.
    """

    steps: Count = 1000
    batch_size: Count = 8
    learning_rate: float = Field(default=1e-3, gt=0, description="a number > 0")
    warmup: int = Field(default=20, ge=0, description="an integer >= 0")
    weight_decay: float = Field(default=0.01, ge=0, description="a number >= 0")
    clip: float = Field(default=1.0, gt=0, description="a number > 0")
    on_policy_steps: int = Field(default=0, ge=0, description="an integer >= 0")
    on_policy_tokens: Count = 16
    overlap_steps: int = Field(default=0, ge=0, description="an integer >= 0")
    held_out: float = Field(default=0.02, gt=0, lt=1, description="a number in (0, 1)")
    evaluate_every: Count = 50
    patience: int = Field(default=0, ge=0, description="an integer >= 0 (0 never stops early)")

    @model_validator(mode="after")
    def _within(self) -> TrainingRecipe:
        for name in ("warmup", "on_policy_steps", "overlap_steps"):
            if getattr(self, name) > self.steps:
                raise refusal(name, getattr(self, name), f"an integer <= steps, which is {self.steps}")
        return self


class MakeRecipe(Section):
    """A drafter made from the target by `spec-cascade drafter make`.

    Attributes:
        directory: Where it is kept.
        layers: Those of the target that it begins with.
        head: How many tokens it can propose, the most frequent of the target's text; None is all.
        seed: Of the text and of the order in which it is learnt.
        license: The target's, for the model card.
        text: What it learns from: one text, or a list of them.
        training: See `TrainingRecipe`.
    """

    directory: str = Field(min_length=1, description="a directory; a relative path starts at the pair file")
    layers: tuple[Annotated[int, Field(ge=0)], ...] | LayerChoice = Field(
        description="layer numbers of the target, ascending, from 0: [0, 1, 5]; or {count: ..., by: ...}",
    )
    head: int | None = Field(default=None, ge=1, description="an integer >= 1, or left out for all tokens")
    seed: int = Field(default=0, ge=0, lt=2**31, description="an integer in [0, 2**31)")
    license: str | None = Field(default=None, min_length=1, description="the target's licence: 'apache-2.0'")
    text: tuple[TextRecipe, ...] = Field(default=(TextRecipe(),), description="a mapping, or a list of them")
    training: TrainingRecipe = Field(default=TrainingRecipe(), description="a mapping")

    def place(self, base: Path) -> Path:
        """The directory, where the pair file is in ``base``."""
        return base / Path(self.directory).expanduser()

    @field_validator("text", mode="before")
    @classmethod
    def _texts(cls, value: object) -> object:
        if value == []:
            raise refusal("", value, "a mapping, or a list of them")
        return tuple(value) if isinstance(value, list) else (value,) if isinstance(value, dict) else value

    @field_validator("layers", mode="before")
    @classmethod
    def _listed(cls, value: object) -> object:
        # A YAML list; the section is strict, and a tuple is what it keeps.
        return tuple(value) if isinstance(value, list) else value

    @field_validator("layers")
    @classmethod
    def _ascending(cls, value: tuple[int, ...] | LayerChoice) -> tuple[int, ...] | LayerChoice:
        if isinstance(value, tuple) and (not value or list(value) != sorted(set(value))):
            raise refusal("", list(value), "at least one layer, in ascending order without repeats")
        return value
