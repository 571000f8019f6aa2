"""What is asked and what is measured; times are seconds of one clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spec_cascade.decoding.sampling import SamplingParams

    Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One prompt to continue.

    Attributes:
        prompt: Its number.
        prompt_ids: Its tokens.
        sampling: How to go on; the same for every subject.
    """

    prompt: int
    prompt_ids: tuple[int, ...]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one task gave.

    Attributes:
        prompt: Number of its prompt.
        token_ids: The output.
        started: When it was asked.
        chunks: When tokens came, and how many.
        target_calls: Forwards of the target that gave a token.
        drafted: Tokens drafted; 0 where the subject does not tell.
        accepted: Those of them that were kept.
        parts: Seconds of its rounds, by the part of a round: draft, score, verify, host; empty where the subject does
            not tell.
    """

    prompt: int
    token_ids: tuple[int, ...]
    started: float
    chunks: tuple[tuple[float, int], ...]
    target_calls: int
    drafted: int = 0
    accepted: int = 0
    parts: Mapping[str, float] = field(default_factory=dict)

    @property
    def first_token(self) -> float:
        """Seconds until the first token."""
        return self.chunks[0][0] - self.started

    @property
    def token_gaps(self) -> list[float]:
        """Seconds per token after the first chunk: a chunk's wait, shared out among its tokens, once for each."""
        gaps: list[float] = []
        for (before, _), (now, tokens) in zip(self.chunks, self.chunks[1:], strict=False):
            gaps.extend([(now - before) / tokens] * tokens)
        return gaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One subject's pass over all tasks.

    Attributes:
        subject: Its name.
        streams: Tasks at a time.
        repetition: Number of the repetition; runs of one repetition and one number of streams are a pair.
        position: Place in the order of that repetition.
        seconds: From the first task to the last token.
        replies: In the order of the tasks.
    """

    subject: str
    streams: int
    repetition: int
    position: int
    seconds: float
    replies: tuple[Reply, ...]

    @property
    def tokens(self) -> int:
        """Tokens emitted."""
        return sum(len(reply.token_ids) for reply in self.replies)

    @property
    def tokens_per_second(self) -> float:
        """Of all streams together."""
        return self.tokens / self.seconds


class Subject(Protocol):
    """What is measured."""

    @property
    def name(self) -> str:
        """Its name in tables."""

    @property
    def most_streams(self) -> int:
        """Tasks that it can run at a time."""

    def reply(self, task: Task, clock: Clock) -> Reply:
        """Run one task; called by several threads where there are several streams."""
