"""Guards: wrappers that say where in a request a rule holds.

A guard answers `at` with the rule that holds at a place, and the verifier asks it there; each place's law is that
rule's, so output stays an exact sample. Asked for a law without a place, a guard answers for where its rule holds.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from spec_cascade.errors import ConfigError
from spec_cascade.rules.about import About
from spec_cascade.rules.base import DeferralRule, Looks
from spec_cascade.rules.baseline import Strict
from spec_cascade.rules.parameters import whole

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from spec_cascade.rules.rows import Place, Rows

DEFAULT_STRICT_PREFIX_TOKENS = 4
STRICT = Strict()
_LOOKS: tuple[Looks, ...] = ("nothing", "position", "tokens")


@dataclass(frozen=True)
class Guard(DeferralRule):
    """A rule that holds at some places, `Strict` or another at the rest."""

    rule: DeferralRule

    @property
    def lossy(self) -> bool:
        """If the rule is."""
        return self.rule.lossy

    @property
    def drafts(self) -> bool:
        """If the rule does."""
        return self.rule.drafts

    @property
    def has_law(self) -> bool:  # type: ignore[override]
        """If the rule has."""
        return self.rule.has_law

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """The rule's."""
        return self.rule.law(draft_probs, target_probs, draft_gate, target_gate)

    def acceptance(self, rows: Rows) -> Tensor:
        """The rule's."""
        return self.rule.acceptance(rows)

    def residual(self, rows: Rows, drafted: Tensor) -> Tensor:
        """The rule's."""
        return self.rule.residual(rows, drafted)

    def judge(self, rows: Rows, drafted: Tensor) -> tuple[Tensor, Tensor]:
        """The rule's."""
        return self.rule.judge(rows, drafted)

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:
        """The rule's."""
        return self.rule.loses_meaning(argmax_drafts=argmax_drafts, gates_available=gates_available)


@dataclass(frozen=True)
class StrictPrefix(Guard):
    """`Strict` for the first tokens of the output, the rule after them.

    Lossy acceptance weakens refusals, and the damage sits in the first tokens (SecureSD, arXiv 2610.08678). Written as
    a parameter of any rule: ``token_v3:alpha=0.8,strict_prefix_tokens=4``; 0 turns the default off.
    """

    strict_prefix_tokens: int = field(metadata=whole(0))
    name: ClassVar[str] = "strict_prefix"
    about: ClassVar[About | None] = About(
        family="guard",
        formula="strict for the first strict_prefix_tokens tokens",
        strict="as its rule",
        drafter_only="never, unless 0",
        source="SecureSD, arXiv 2610.08678",
        example="token_v3:alpha=0.8,strict_prefix_tokens=4",
        fused="as its rule",
    )

    @property
    def looks_at(self) -> Looks:
        """The position, unless the prefix is empty."""
        return _most("position" if self.strict_prefix_tokens else "nothing", self.rule.looks_at)

    def at(self, place: Place) -> DeferralRule:
        """Strict within the prefix."""
        return STRICT if place.position < self.strict_prefix_tokens else self.rule.at(place)

    def __str__(self) -> str:
        inner = str(self.rule)
        last = inner.rpartition(")")[2]
        return f"{inner}{',' if '=' in last else ':'}strict_prefix_tokens={self.strict_prefix_tokens}"


@dataclass(frozen=True)
class Phase(Guard):
    """The rule between two token ids, `Strict` outside: relax the thinking, not the answer.

    The rule holds from the token after ``start`` up to and including ``end``. Both may stand in the prompt.
    """

    start: int = field(metadata=whole(0))
    end: int = field(metadata=whole(0))
    name: ClassVar[str] = "phase"
    about: ClassVar[About | None] = About(
        family="guard",
        formula="the rule after token id start, up to token id end; strict outside",
        strict="as its rule",
        drafter_only="never",
        source="TensorRT-LLM relaxed acceptance (thinking phase)",
        example="phase(token_v3:alpha=0.8):start=151667,end=151668",
        fused="as its rule",
    )

    @property
    def looks_at(self) -> Looks:
        """The tokens."""
        return "tokens"

    def at(self, place: Place) -> DeferralRule:
        """Strict unless the last of the two ids is ``start``."""
        inside = next((t == self.start for t in reversed(place.token_ids) if t in (self.start, self.end)), False)
        return self.rule.at(place) if inside else STRICT

    def __str__(self) -> str:
        return f"phase({self.rule}):start={self.start},end={self.end}"


@dataclass(frozen=True)
class Schedule(DeferralRule):
    """A rule for each stretch of the output: ``schedule(0=strict, 16=token_v3:alpha=0.5, 64=token_v3:alpha=0.8)``.

    Each key is the position (tokens emitted before) from which its rule holds; the first is 0.
    """

    stages: tuple[tuple[int, DeferralRule], ...]
    name: ClassVar[str] = "schedule"
    about: ClassVar[About | None] = About(
        family="guard",
        formula="the rule of the last position that is reached",
        strict="all stages strict",
        drafter_only="all stages drafter-only",
        source="",
        example="schedule(0=strict, 16=token_v3:alpha=0.5, 64=token_v3:alpha=0.8)",
        fused="as its rules",
    )

    def __post_init__(self) -> None:
        """The positions must start at 0 and rise."""
        starts = [start for start, _ in self.stages]
        if starts[:1] != [0] or sorted(set(starts)) != starts:
            raise ConfigError("schedule", starts, "rising positions of which the first is 0")
        object.__setattr__(self, "stages", tuple(self.stages))

    @classmethod
    def of(cls, stages: Mapping[int, DeferralRule]) -> Schedule:
        """From a mapping of positions to rules."""
        return cls(tuple(sorted(stages.items(), key=lambda stage: stage[0])))

    @property
    def lossy(self) -> bool:
        """If any stage is."""
        return any(rule.lossy for _, rule in self.stages)

    @property
    def has_law(self) -> bool:  # type: ignore[override]
        """If all stages have one."""
        return all(rule.has_law for _, rule in self.stages)

    @property
    def looks_at(self) -> Looks:
        """The position, or the tokens if a stage does."""
        return _most("position", *(rule.looks_at for _, rule in self.stages))

    def law(self, draft_probs: Tensor, target_probs: Tensor, draft_gate: Tensor, target_gate: Tensor) -> Tensor:
        """The last stage's."""
        return self.stages[-1][1].law(draft_probs, target_probs, draft_gate, target_gate)

    def at(self, place: Place) -> DeferralRule:
        """The rule of the stage that ``place`` is in."""
        stage = bisect_right(self.stages, place.position, key=lambda s: s[0]) - 1
        return self.stages[stage][1].at(place)

    def loses_meaning(self, *, argmax_drafts: bool, gates_available: bool) -> str | None:
        """The first reason among the stages."""
        reasons = (
            r.loses_meaning(argmax_drafts=argmax_drafts, gates_available=gates_available) for _, r in self.stages
        )
        return next((reason for reason in reasons if reason is not None), None)

    def __str__(self) -> str:
        return f"schedule({', '.join(f'{start}={rule}' for start, rule in self.stages)})"


def with_default_guards(rule: DeferralRule, strict_prefix_tokens: int = DEFAULT_STRICT_PREFIX_TOKENS) -> DeferralRule:
    """The rule with the guards that are on by default: a strict prefix, for lossy rules that do not set their own."""
    if strict_prefix_tokens == 0 or not rule.lossy or isinstance(rule, StrictPrefix):
        return rule
    return StrictPrefix(rule, strict_prefix_tokens)


def _most(*looks: Looks) -> Looks:
    return max(looks, key=_LOOKS.index)
