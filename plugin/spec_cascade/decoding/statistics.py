"""Counts of what was drafted, kept and emitted; from values that are already on the host."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any


@dataclass(slots=True)
class Timings:
    """Seconds of rounds, by what the decoding thread waited for; a request has those of the rounds that it lived in.

    On a GPU the work of one part is often waited for in the next.

    Attributes:
        draft: The drafter's forwards and draws.
        score: The target's forward.
        verify: Judging the drafts, or drawing a plain round's tokens.
        host: Scheduling, committing and sending.
    """

    draft: float = 0.0
    score: float = 0.0
    verify: float = 0.0
    host: float = 0.0

    def add(self, other: Timings) -> None:
        """Add the seconds of another round."""
        self.draft += other.draft
        self.score += other.score
        self.verify += other.verify
        self.host += other.host


@dataclass(slots=True)
class RequestStatistics:
    """Counts of one request; only tokens that were really emitted count as kept.

    Attributes:
        rule: The rule that ran, in `parse_rule` syntax.
        rule_params: Its parameters by name.
        lossy: Whether that rule may change the target's distribution.
        verifier: Which verifier judged the last drafts: ``fused``, or ``reference`` and why; empty before the first.
        num_spec_tokens: Most tokens drafted per round, as asked for; -1 is automatic.
        num_prompt_tokens: Length of the prompt.
        num_output_tokens: Tokens emitted.
        num_target_calls: Target forwards that emitted at least one token for this request.
        num_spec_steps: Those among them that scored a draft.
        num_draft_tokens: Tokens drafted.
        num_accepted_draft_tokens: Drafted tokens that were emitted.
        num_residual_tokens: Tokens drawn from the residual.
        num_bonus_tokens: Bonus tokens.
        num_deferrals: Drafted positions, up to and including the first rejected one, at which the rule deferred.
        acceptance_histogram: Index j counts the speculative steps that kept exactly j drafted tokens.
        drafted_per_position: Index j counts the speculative steps that drafted a token at position j.
        queue_seconds: From submission until it got a slot, or ended without one.
        seconds: Of the rounds that the request lived in.
    """

    rule: str = "strict"
    rule_params: dict[str, Any] = field(default_factory=dict)
    lossy: bool = False
    verifier: str = ""
    num_spec_tokens: int = 0
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_target_calls: int = 0
    num_spec_steps: int = 0
    num_draft_tokens: int = 0
    num_accepted_draft_tokens: int = 0
    num_residual_tokens: int = 0
    num_bonus_tokens: int = 0
    num_deferrals: int = 0
    acceptance_histogram: list[int] = field(default_factory=list)
    drafted_per_position: list[int] = field(default_factory=list)
    queue_seconds: float = 0.0
    seconds: Timings = field(default_factory=Timings)

    @property
    def accepted_per_position(self) -> list[int]:
        """Index j counts the speculative steps that kept the token drafted at position j."""
        return [sum(self.acceptance_histogram[j + 1 :]) for j in range(len(self.drafted_per_position))]

    @property
    def draft_acceptance_rate(self) -> float:
        """Accepted over drafted tokens; 0 where nothing was drafted."""
        return self.num_accepted_draft_tokens / self.num_draft_tokens if self.num_draft_tokens else 0.0

    @property
    def mean_acceptance_length(self) -> float:
        """1 + accepted tokens per speculative step: the bonus or residual token counts, by convention."""
        return 1.0 + self.num_accepted_draft_tokens / self.num_spec_steps if self.num_spec_steps else 1.0

    @property
    def tokens_per_target_call(self) -> float:
        """Emitted tokens per target forward; 0 before the first."""
        return self.num_output_tokens / self.num_target_calls if self.num_target_calls else 0.0

    def record_step(self, *, drafted: int, accepted: int) -> None:
        """Count one speculative step that kept ``accepted`` of ``drafted`` tokens."""
        self.num_spec_steps += 1
        self.num_draft_tokens += drafted
        self.num_accepted_draft_tokens += accepted
        _add_counts(self.acceptance_histogram, [0] * accepted + [1])
        _add_counts(self.drafted_per_position, [1] * drafted)

    def add(self, other: RequestStatistics) -> None:
        """Add the counts of another request."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        _add_counts(self.acceptance_histogram, other.acceptance_histogram)
        _add_counts(self.drafted_per_position, other.drafted_per_position)

    def copy(self) -> RequestStatistics:
        """The counts of now, which later ones do not change."""
        return replace(
            self,
            rule_params=dict(self.rule_params),
            acceptance_histogram=list(self.acceptance_histogram),
            drafted_per_position=list(self.drafted_per_position),
            seconds=replace(self.seconds),
        )

    def as_dict(self) -> dict[str, Any]:
        """The JSON that travels to clients."""
        return {
            "rule": self.rule,
            "rule_params": dict(self.rule_params),
            "lossy": self.lossy,
            "verifier": self.verifier,
            "num_spec_tokens": self.num_spec_tokens,
            "num_prompt_tokens": self.num_prompt_tokens,
            "num_output_tokens": self.num_output_tokens,
            "num_target_calls": self.num_target_calls,
            "tokens_per_target_call": self.tokens_per_target_call,
            "mean_acceptance_length": self.mean_acceptance_length,
            "draft_acceptance_rate": self.draft_acceptance_rate,
            "acceptance_histogram": list(self.acceptance_histogram),
            "drafted_per_position": list(self.drafted_per_position),
            "accepted_per_position": self.accepted_per_position,
            "num_spec_steps": self.num_spec_steps,
            "num_accepted_draft_tokens": self.num_accepted_draft_tokens,
            "num_draft_tokens": self.num_draft_tokens,
            "num_residual_tokens": self.num_residual_tokens,
            "num_bonus_tokens": self.num_bonus_tokens,
            "num_deferrals": self.num_deferrals,
            "queue_seconds": self.queue_seconds,
            "seconds": asdict(self.seconds),
        }


# num_spec_tokens is a setting, not a count.
_COUNTS = tuple(f.name for f in fields(RequestStatistics) if f.name.startswith("num_") and f.name != "num_spec_tokens")


def _add_counts(counts: list[int], more: list[int]) -> None:
    counts.extend([0] * (len(more) - len(counts)))
    for index, count in enumerate(more):
        counts[index] += count


@dataclass(slots=True)
class KvUse:
    """What the target's KV cache holds; a block is what a request takes at a time.

    Attributes:
        tokens_per_block: Tokens that a block has room for.
        num_used_blocks: Blocks that requests have taken.
        num_blocks: Blocks in all.
        num_tokens: Tokens whose keys and values are held.
    """

    tokens_per_block: int = 0
    num_used_blocks: int = 0
    num_blocks: int = 0
    num_tokens: int = 0


@dataclass(slots=True)
class EngineStatistics:
    """Totals of an engine since its start, and what it holds now.

    Attributes:
        num_running: Requests with a slot.
        num_waiting: Requests in the queue.
        num_slots: Slots in all.
        num_finished: Ended requests by finish reason.
        num_rounds: Rounds so far.
        num_drafter_failures: Rounds that lost their drafts because the drafter failed; they went on without.
        num_judged_rounds: Rounds in which drafts were judged.
        verify_seconds: How long that took, in each of the latest such rounds, the newest last.
        kv: What the KV cache holds now.
        cost_ratio: c: a forward of the drafter over one of the target, as measured; 0 while it is not.
        seconds: Of all rounds, each counted once.
        totals: Sums over the ended requests; its ``rule``, ``lossy`` and ``num_spec_tokens`` mean nothing, and its
            ``seconds`` and ``queue_seconds`` stay 0.
    """

    num_running: int = 0
    num_waiting: int = 0
    num_slots: int = 0
    num_finished: dict[str, int] = field(default_factory=dict)
    num_rounds: int = 0
    num_drafter_failures: int = 0
    num_judged_rounds: int = 0
    verify_seconds: tuple[float, ...] = ()
    kv: KvUse = field(default_factory=KvUse)
    cost_ratio: float = 0.0
    seconds: Timings = field(default_factory=Timings)
    totals: RequestStatistics = field(default_factory=RequestStatistics)

    def add(self, finish_reason: str, statistics: RequestStatistics) -> None:
        """Count an ended request."""
        self.num_finished[finish_reason] = self.num_finished.get(finish_reason, 0) + 1
        self.totals.add(statistics)

    def copy(self) -> EngineStatistics:
        """The totals of now, which later ones do not change."""
        # Several times as fast as `deepcopy`: the decoding thread may be waiting to count a round.
        return replace(
            self,
            num_finished=dict(self.num_finished),
            kv=replace(self.kv),
            seconds=replace(self.seconds),
            totals=self.totals.copy(),
        )
